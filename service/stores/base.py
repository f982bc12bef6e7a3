"""The store protocol: where sessions are stored between two steps.

Rule 1: a write names the revision that it is based on (compare-and-swap); the write of a step never
        creates a record.
Rule 2: the store sets `expires_at` at commit, and compares it with its own clock.
Rule 3: a call succeeds or raises StoreUnavailableError. A refused write does not affect the others
        of its group. If only some writes of a group succeed, or the outcome of some is not known,
        WritesFailedError contains the outcome of each. A store never repeats a write whose reply
        was lost: the engine reads back (`engine/dispatch/read_back.py`).
Rule 4: records that expired or were closed stay readable for `TOMBSTONE_S`, then `sweep` removes
        them.
Rule 5: a store also holds a few small named values, for what all its processes must agree on.
        They do not expire.
Rule 6: loading an unreadable record raises RecordUnreadableError; lists omit it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from service.errors import StoreUnavailableError
from service.stores.record.record import Key, Record, RecordFormatError, SessionHeader

log = structlog.get_logger()

TOMBSTONE_S = 600.0

Write = tuple[SessionHeader, bytes, Record | None]
"""Header, data and base. The base is the record that must be stored and live; None requires that no
live record is stored. The header is written only if it is another object than the base's (`is`), as
after an upgrade. A plain tuple, because every step creates one."""


class WritesFailedError(StoreUnavailableError):
    """Not all writes of a group succeeded; `outcomes` has one entry for each write.

    OutcomeUnknownError: it may be stored. Any other error: it is not.
    """

    def __init__(self, outcomes: "Sequence[Record | StoreUnavailableError | None]") -> None:
        super().__init__("some of the sessions could not be written", retry_after_s=1)
        self.outcomes = list(outcomes)


class Expired(NamedTuple):
    """A record that `sweep` removed; `closed` is "" if it had expired."""

    key: Key
    model: str
    version: str
    closed: str


class Usage(NamedTuple):
    """The live sessions of a tenant, and the bytes of their records without keys and indexes."""

    num_sessions: int
    num_bytes: int


class Store(Protocol):
    """Every store passes the same test suite.

    `waits` is true if a commit waits for a disk or a network: other commits may start meanwhile.
    """

    durability: str
    waits: bool

    async def load(self, key: Key) -> Record | None:
        """The latest record, live or not; None if none is stored."""

    async def commit(self, writes: Sequence[Write]) -> list[Record | None]:
        """One group commit: each record as it is stored now, in order.

        None for a write whose base was changed by another writer or has expired.
        """

    async def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Record]:
        """Live records with a name greater than `after`, sorted by name."""

    async def usage(self, tenant: str) -> Usage:
        """The current usage of the tenant. The cost grows with the number of its sessions."""

    async def sweep(self, limit: int) -> list[Expired]:
        """Remove and return records that ended more than `TOMBSTONE_S` ago."""

    async def read_value(self, name: str) -> bytes:
        """A named value; empty if it was never set."""

    async def swap_value(self, name: str, old: bytes, new: bytes) -> bool:
        """Set a named value if it is `old`; otherwise change nothing and return False."""

    async def now(self) -> float:
        """The store's clock."""

    async def check(self) -> None:
        """Raise StoreUnavailableError unless the store accepts writes."""

    async def close(self) -> None:
        """Finish running calls and release all resources."""


class StoreOptions(NamedTuple):
    """Options of some stores: SQLite reads `durability`, Redis the others."""

    durability: str = "power"
    timeout_s: float = 2.0
    password_file: Path | None = None
    ca_file: Path | None = None


def read_for_list(read: Callable[[], Record]) -> Record | None:
    """A record for a list; None if it cannot be read, so that it does not hide the others."""
    try:
        return read()
    except RecordFormatError as error:
        log.warning("unreadable record omitted from a list", reason=error.detail)
        return None
