"""Errors of SQLite → errors with a remedy for the client.

The message of SQLite is in brackets; the path of the file never appears.
"""

from typing import Final

import apsw

from service.errors import StoreUnavailableError

FAILURES: Final = (apsw.Error, UnicodeDecodeError)
"""Raised when the file is read; the second if a text in it is damaged."""
UNUSABLE: Final = (*FAILURES, OSError, UnicodeEncodeError)
"""Raised when a file is opened; the last if its path is not valid UTF-8."""

_WHAT: Final = {
    apsw.FullError: "the disk of the session store is full",
    apsw.ReadOnlyError: "the session store is read-only",
    apsw.IOError: "the disk of the session store failed",
    apsw.CorruptError: "the file of the session store is damaged",
    apsw.NotADBError: "the file of the session store is damaged",
    UnicodeDecodeError: "the file of the session store is damaged",
}
_REMEDY: Final = {
    apsw.FullError: "free space on its disk (no restart is needed), and retry",
    apsw.ReadOnlyError: "make its file and disk writable, and retry",
    apsw.CorruptError: "run `python -m service check-store`, and restore a backup",
    apsw.NotADBError: "run `python -m service check-store`, and restore a backup",
    UnicodeDecodeError: "run `python -m service check-store`, and restore a backup",
}
# Only an operator can fix these, so clients retry less often.
_RETRY_AFTER_S: Final = 5.0


def files_changed(change: str, *, was_written: bool) -> StoreUnavailableError:
    """The error while the files are not those that were opened."""
    outcome = (
        "it is not known whether this request was stored"
        if was_written
        else "nothing of this request was stored"
    )
    return StoreUnavailableError(
        f"the session store cannot be used: {change} while it was in use; {outcome}: put the same"
        " files back, or stop the service, restore a backup and start it",
        retry_after_s=_RETRY_AFTER_S,
    )


def unavailable(error: apsw.Error | UnicodeDecodeError) -> StoreUnavailableError:
    """The error for a request that SQLite could not carry out; nothing of it was stored."""
    kind = type(error)
    what = _WHAT.get(kind, "the session store could not be read or written")
    remedy = _REMEDY.get(kind, "retry")
    return StoreUnavailableError(
        f"{what} ({error}); nothing of this request was stored: {remedy}",
        retry_after_s=_RETRY_AFTER_S if kind in _REMEDY else 1,
    )
