"""Sessions in this process only: nothing survives it, and nothing waits for a disk."""

import time
from collections.abc import Callable, Sequence
from heapq import nsmallest

from service.stores.base import TOMBSTONE_S, Outcome, Swept, Write
from service.stores.record import Key, Record


class MemoryStore:
    durability = "none"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._records: dict[Key, Record] = {}

    async def load(self, key: Key) -> Record | None:
        return self._records.get(key)

    async def commit(self, writes: Sequence[Write]) -> list[Outcome]:
        now = self._clock()
        return [self._commit_one(write, now) for write in writes]

    def _commit_one(self, write: Write, now: float) -> Outcome:
        record = write.record
        found = self._records.get(record.key)
        live = found if found and not found.closed and found.expires_at > now else None
        if (live.revision if live else None) != write.expected:
            return Outcome(False, 0.0)
        expires_at = now + record.ttl_s
        self._records[record.key] = record._replace(expires_at=expires_at)
        return Outcome(True, expires_at)

    async def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Record]:
        now = self._clock()
        found = (
            record
            for record in self._records.values()
            if record.opening.tenant == tenant
            and record.opening.name > after
            and model in (None, record.opening.model)
            and not record.closed
            and record.expires_at > now
        )
        return nsmallest(limit, found, key=lambda record: record.opening.name)

    async def sweep(self, limit: int) -> list[Swept]:
        before = self._clock() - TOMBSTONE_S
        over = [record for record in self._records.values() if record.expires_at <= before]
        for record in over[:limit]:
            del self._records[record.key]
        return [Swept(r.key, r.opening.model, r.opening.version, r.closed) for r in over[:limit]]

    async def now(self) -> float:
        return self._clock()

    async def check(self) -> None:
        return None

    async def close(self) -> None:
        self._records.clear()
