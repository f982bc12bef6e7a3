"""A connection to an SQLite file: opening, queries, transactions.

Rule 1: a process opens the file with one SQLite only (`apsw`'s, not Python's): if two had it open,
        closing it in one would release the locks of the other.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import apsw

_OPEN_TIMEOUT_S: Final = 5.0
_OPEN_PAUSE_S: Final = 0.01
_READ_WRITE: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


def connected(path: Path | str, flags: int = _READ_WRITE) -> apsw.Connection:
    """Open a connection that waits up to 5 s for a lock."""
    db = apsw.Connection(str(path), flags)
    wait_at_most(db, _OPEN_TIMEOUT_S)
    return db


def wait_at_most(db: apsw.Connection, seconds: float) -> None:
    """Set how long to wait for a lock that another connection holds."""
    db.set_busy_timeout(int(1000 * seconds))


def write_ahead(db: apsw.Connection) -> None:
    """Switch the file to a write-ahead log.

    SQLite does not wait for locks here, so this retries while another process creates the file.
    """
    deadline = time.monotonic() + _OPEN_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_OPEN_PAUSE_S)
        else:
            return


def rows_of(db: apsw.Connection, statement: str, values: Sequence[object] = ()) -> list[Any]:
    """All rows: a statement that is not read to its end would hold a read lock on the log."""
    return list(db.execute(statement, values))


def num_bytes_of(db: apsw.Connection) -> int:
    """The size of the database; its file may be shorter while its end is in the log."""
    query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    [(num_bytes,)] = rows_of(db, query)
    return int(num_bytes)


def num_log_frames_of(db: apsw.Connection) -> int:
    """The number of frames that SQLite expects in the log, without reading the file or locking."""
    [(_, num_frames, _)] = rows_of(db, "PRAGMA wal_checkpoint(NOOP)")
    return int(num_frames)


def close(db: apsw.Connection, *, may_checkpoint: bool) -> None:
    """Close. The last connection moves the log into the file and removes it, if allowed."""
    if not may_checkpoint:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.close()


class Transaction:
    """Takes the write lock at the start; commits at the end, or rolls back on an error."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not self._db.in_transaction:
            return  # SQLite has rolled back, as on a full disk; a second ROLLBACK would fail
        try:
            self._db.execute("ROLLBACK" if kind else "COMMIT")
        except apsw.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
