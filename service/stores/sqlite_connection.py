"""A connection to an SQLite file: how it is opened, asked, and written in transactions.

Rule 1: in this process a file is opened by this SQLite alone (`apsw`'s, not Python's): of two,
        whichever closed it would let go of the other's locks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import apsw

_OPENING_TIMEOUT_S: Final = 5.0
_TO_WRITE: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


def connected(path: Path | str, flags: int = _TO_WRITE) -> apsw.Connection:
    """A connection that waits some seconds for a lock, as is well for a file that is opened."""
    db = apsw.Connection(str(path), flags)
    wait_at_most(db, _OPENING_TIMEOUT_S)
    return db


def wait_at_most(db: apsw.Connection, seconds: float) -> None:
    """From now on, for a lock that another connection holds."""
    db.set_busy_timeout(int(1000 * seconds))


def rows_of(db: apsw.Connection, statement: str, values: Sequence[object] = ()) -> list[Any]:
    """All rows: a statement that is read by half would hold on to the log."""
    return list(db.execute(statement, values))


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
