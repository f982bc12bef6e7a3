"""The store protocol: where sessions live between two steps.

Rule 1: a write proves the revision that it was computed from (compare-and-swap); a step's write
        never creates a record.
Rule 2: `expires_at` is set and judged by the store's own clock, at commit.
Rule 3: a call either did all it says or raises StoreUnavailableError; one lost write of a group
        does not touch the others. Where only some of a group could be written, or what became of
        some is not known, WritesFailedError says which. A store never repeats a write whose answer
        was lost: the engine reads back (`engine/dispatch/read_back.py`).
Rule 4: records that expired or were closed stay readable for `TOMBSTONE_S`, then `sweep` takes
        them away.
Rule 5: beside the sessions lie a few small named values, for what all processes on a store must
        agree on. They do not expire.
Rule 6: a record that cannot be read raises RecordUnreadableError by itself, and is left out of
        lists.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from service.errors import StoreUnavailableError
from service.stores.record.record import Key, Record, SessionHeader

TOMBSTONE_S = 600.0


Write = tuple[SessionHeader, bytes, Record | None]
"""Opening, data, and the base: the record that must still be there, live; None: nothing live may
be there. The opening is written where it is not the base's very own (`is`), as after an upgrade.
A plain tuple, because one is made for every step."""


class WritesFailedError(StoreUnavailableError):
    """Not all of a group could be written; `outcomes` says for each write what became of it.

    An OutcomeUnknownError among them: it may be kept. Any other error: it is not.
    """

    def __init__(self, outcomes: "Sequence[Record | StoreUnavailableError | None]") -> None:
        super().__init__("some of the sessions could not be written", retry_after_s=1)
        self.outcomes = list(outcomes)


class Expired(NamedTuple):
    """What is left to say of a record that `sweep` removed; `closed` is "" if it had expired."""

    key: Key
    model: str
    version: str
    closed: str


class Usage(NamedTuple):
    """The live sessions of a tenant, and the bytes of their records, without keys and indexes."""

    num_sessions: int
    num_bytes: int


class Store(Protocol):
    """Behaviour is fixed by one test suite that every store passes.

    `waits` says that a commit waits for a disk or a network: others may be begun meanwhile.
    """

    durability: str
    waits: bool

    async def load(self, key: Key) -> Record | None:
        """The latest record, live or not; None if there is none."""

    async def commit(self, writes: Sequence[Write]) -> list[Record | None]:
        """One group commit: each record as it is kept now, in order.

        None where another writer was first, or the base had expired.
        """

    async def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Record]:
        """Live records by name, those after `after`."""

    async def usage(self, tenant: str) -> Usage:
        """What the tenant has now. Costs as much as there is."""

    async def sweep(self, limit: int) -> list[Expired]:
        """Remove and return records whose tombstone time is over."""

    async def read_value(self, name: str) -> bytes:
        """A named value; empty where it was never set."""

    async def swap_value(self, name: str, old: bytes, new: bytes) -> bool:
        """Set a named value where it is `old`; False, with nothing done, where it is not."""

    async def now(self) -> float:
        """The store's clock."""

    async def check(self) -> None:
        """Raise StoreUnavailableError unless a write would be possible."""

    async def close(self) -> None:
        """Finish what is under way and let go of every resource."""


class StoreOptions(NamedTuple):
    """What only some stores need: `durability` SQLite, the others Redis."""

    durability: str = "power"
    timeout_s: float = 2.0
    password_file: Path | None = None
    ca_file: Path | None = None
