"""What SQLite says when it cannot read or write, put so that people know what to do.

The system's own words stay in brackets; the path of the file never appears.
"""

from typing import Final

import apsw

from service.errors import StoreUnavailableError

FAILURES: Final = (apsw.Error, UnicodeDecodeError)
"""What reading the file may raise; the second, where a text in it is damaged."""
UNUSABLE: Final = (*FAILURES, OSError, UnicodeEncodeError)
"""What opening one may raise; the last, where its path is no UTF-8."""

_WHAT: Final = {
    apsw.FullError: "the disk of the session store is full",
    apsw.ReadOnlyError: "the session store may only be read",
    apsw.IOError: "the disk of the session store failed",
    apsw.CorruptError: "the file of the session store is damaged",
    apsw.NotADBError: "the file of the session store is damaged",
    UnicodeDecodeError: "the file of the session store is damaged",
}
_REMEDY: Final = {
    apsw.FullError: "make room on its disk, no restart is needed; until then, try again",
    apsw.ReadOnlyError: "make its file and disk writable; until then, try again",
    apsw.CorruptError: "see what `python -m service check-store` finds, and restore a backup",
    apsw.NotADBError: "see what `python -m service check-store` finds, and restore a backup",
    UnicodeDecodeError: "see what `python -m service check-store` finds, and restore a backup",
}
# A client need not retry every second what only a person can fix.
_RETRY_AFTER_S: Final = 5.0


def changed(change: str, *, was_written: bool) -> StoreUnavailableError:
    """The answer while the files are not those that were opened."""
    kept = (
        "whether this request is kept is not known"
        if was_written
        else "nothing of this request was kept"
    )
    return StoreUnavailableError(
        f"the session store cannot be used: {change} while it was in use; {kept}: put its files"
        " back as they were, or stop the service, restore a backup and start it",
        retry_after_s=_RETRY_AFTER_S,
    )


def unavailable(error: apsw.Error | UnicodeDecodeError) -> StoreUnavailableError:
    """The answer to a request that the file could not serve; nothing of it was kept."""
    kind = type(error)
    what = _WHAT.get(kind, "the session store could not be read or written")
    remedy = _REMEDY.get(kind, "try again")
    return StoreUnavailableError(
        f"{what} ({error}); nothing of this request was kept: {remedy}",
        retry_after_s=_RETRY_AFTER_S if kind in _REMEDY else 1,
    )
