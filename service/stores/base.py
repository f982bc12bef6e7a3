"""The store protocol: where sessions live between two steps.

Rule 1: a write proves the revision that it was computed from (compare-and-swap); a step's write
        never creates a record.
Rule 2: `expires_at` is set and judged by the store's own clock, at commit.
Rule 3: a call either did all it says or raises StoreUnavailableError; one lost write of a group
        does not touch the others.
Rule 4: records that expired or were closed stay readable for `TOMBSTONE_S`, then `sweep` takes
        them away.
Rule 5: a record that cannot be read raises RecordUnreadableError by itself, and is left out of
        lists.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from service.errors import StartUpError
from service.stores.record import Key, Opening, Record

TOMBSTONE_S = 600.0


Write = tuple[Opening, bytes, Record | None]
"""Opening, data, and the base: the record that must still be there, live; None: nothing live may
be there. The opening is written where it is not the base's very own (`is`), as after an upgrade.
A plain tuple, because one is made for every step."""


class Swept(NamedTuple):
    """What is left to say of a record that `sweep` removed; `closed` is "" if it had expired."""

    key: Key
    model: str
    version: str
    closed: str


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

    async def sweep(self, limit: int) -> list[Swept]:
        """Remove and return records whose tombstone time is over."""

    async def now(self) -> float:
        """The store's clock."""

    async def check(self) -> None:
        """Raise StoreUnavailableError unless a write would be possible."""

    async def close(self) -> None:
        """Finish what is under way and let go of every resource."""


def open_store(url: str, durability: str) -> Store:
    """`memory://` or `sqlite:///path`.

    Raises:
        StartUpError: an unknown scheme, or a file that cannot be used.
    """
    # Each store is imported when it is chosen, so that its driver is needed only then.
    parts = urlsplit(url)
    if parts.scheme == "memory":
        from service.stores.memory import MemoryStore

        return MemoryStore()
    if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
        from service.stores.sqlite import SqliteStore

        return SqliteStore.open(parts.path[1:], durability)
    raise StartUpError(
        f"CARRY_STORE is {url!r}: expected memory:// or sqlite:///PATH"
        " (sqlite:////PATH for an absolute path)"
    )
