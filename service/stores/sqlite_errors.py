"""What SQLite says when it cannot read or write, put so that people know what to do.

The system's own words stay in brackets; the path of the file never appears.
"""

import sqlite3
from typing import Final

from service.errors import StoreUnavailableError

_WHAT: Final = {
    sqlite3.SQLITE_FULL: "the disk of the session store is full",
    sqlite3.SQLITE_READONLY: "the session store may only be read",
    sqlite3.SQLITE_IOERR: "the disk of the session store failed",
    sqlite3.SQLITE_CORRUPT: "the file of the session store is damaged",
    sqlite3.SQLITE_NOTADB: "the file of the session store is damaged",
}
_REMEDY: Final = {
    sqlite3.SQLITE_FULL: "make room on its disk, no restart is needed; until then, try again",
    sqlite3.SQLITE_READONLY: "make its file and disk writable; until then, try again",
    sqlite3.SQLITE_CORRUPT: "see what `python -m service check-store` finds, and restore a backup",
    sqlite3.SQLITE_NOTADB: "see what `python -m service check-store` finds, and restore a backup",
}
# What takes a person to mend is not asked for every second.
_RETRY_AFTER_S: Final = 5.0


def unavailable(error: sqlite3.Error) -> StoreUnavailableError:
    """The answer to a request that the file could not serve; nothing of it was kept."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    what = _WHAT.get(code, "the session store could not be read or written")
    remedy = _REMEDY.get(code, "try again")
    return StoreUnavailableError(
        f"{what} ({error}); nothing of this request was kept: {remedy}",
        retry_after_s=_RETRY_AFTER_S if code in _REMEDY else 1,
    )
