"""A connection to an SQLite file: how it is opened, asked, and written in transactions.

Rule 1: in this process a file is opened by this SQLite alone (`apsw`'s, not Python's): of two,
        whichever closed it would let go of the other's locks.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import apsw

_OPENING_TIMEOUT_S: Final = 5.0
_OPENING_PAUSE_S: Final = 0.01
_TO_WRITE: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


def connected(path: Path | str, flags: int = _TO_WRITE) -> apsw.Connection:
    """A connection that waits some seconds for a lock, as is well for a file that is opened."""
    db = apsw.Connection(str(path), flags)
    wait_at_most(db, _OPENING_TIMEOUT_S)
    return db


def wait_at_most(db: apsw.Connection, seconds: float) -> None:
    """From now on, for a lock that another connection holds."""
    db.set_busy_timeout(int(1000 * seconds))


def write_ahead(db: apsw.Connection) -> None:
    """Have a log in front of the file, if it has none yet.

    SQLite does not wait here where another process writes the file, as it does when both make it.
    """
    deadline = time.monotonic() + _OPENING_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_OPENING_PAUSE_S)
        else:
            return


def rows_of(db: apsw.Connection, statement: str, values: Sequence[object] = ()) -> list[Any]:
    """All rows: a statement that is read by half would hold on to the log."""
    return list(db.execute(statement, values))


def num_bytes_of(db: apsw.Connection) -> int:
    """Of the database; its file may be shorter while the end of it is in the log."""
    query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    [(num_bytes,)] = rows_of(db, query)
    return int(num_bytes)


def num_log_frames_of(db: apsw.Connection) -> int:
    """As SQLite counts on them, whatever has become of the file; no lock is taken."""
    [(_, num_frames, _)] = rows_of(db, "PRAGMA wal_checkpoint(NOOP)")
    return int(num_frames)


def close(db: apsw.Connection, *, may_move: bool) -> None:
    """Close; the last connection moves the log into the file and removes it, if it may."""
    if not may_move:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.close()


class Transaction:
    """Takes the write lock at once; commits at the end, or rolls back on any error."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not self._db.in_transaction:
            return  # rolled back by SQLite, as on a full disk; to do it again would be an error
        try:
            self._db.execute("ROLLBACK" if kind else "COMMIT")
        except apsw.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
