"""Sessions in this process only: nothing survives it, and nothing waits for a disk."""

import time
from collections.abc import Callable, Sequence
from heapq import nsmallest

from service.stores.base import TOMBSTONE_S, Swept, Write
from service.stores.record import Key, Opening, Record, ttl_s_of


class MemoryStore:
    durability = "none"
    waits = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        # By tenant, then by name: a key of its own for each session would cost 72 bytes.
        self._tenants: dict[str, dict[str, Record]] = {}
        self._due = _DueMinutes()

    async def load(self, key: Key) -> Record | None:
        return self._tenants.get(key.tenant, {}).get(key.name)

    async def commit(self, writes: Sequence[Write]) -> list[Record | None]:
        now = self._clock()
        return [self._commit_one(opening, data, base, now) for opening, data, base in writes]

    def _commit_one(
        self, opening: Opening, data: bytes, base: Record | None, now: float
    ) -> Record | None:
        records = self._tenants.get(opening.tenant)
        if records is None:
            records = self._tenants[opening.tenant] = {}
        found = records.get(opening.name)
        live = found if found and found.expires_at > now and not found.closed else None
        if live is not base and (not live or not base or live.revision != base.revision):
            return None  # most often it is the very record that was answered last
        kept = Record(opening, data, now + ttl_s_of(data))
        records[opening.name] = kept
        if base is None or kept.closed:
            self._due.put(kept.expires_at, opening)
        return kept

    async def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Record]:
        now = self._clock()
        found = (
            record
            for name, record in self._tenants.get(tenant, {}).items()
            if name > after
            and model in (None, record.opening.model)
            and not record.closed
            and record.expires_at > now
        )
        return nsmallest(limit, found, key=lambda record: record.opening.name)

    async def sweep(self, limit: int) -> list[Swept]:
        before = self._clock() - TOMBSTONE_S
        over: list[Record] = []
        for opening in self._due.take(before, 10 * limit):
            records = self._tenants[opening.tenant]
            record = records.get(opening.name)
            if record is None or record.opening is not opening:
                continue  # swept already, or opened anew
            if record.expires_at > before or len(over) == limit:
                self._due.put(record.expires_at, opening)
            else:
                over.append(record)
                del records[opening.name]
        return [Swept(r.key, r.opening.model, r.opening.version, r.closed) for r in over]

    async def now(self) -> float:
        return self._clock()

    async def check(self) -> None:
        return None

    async def close(self) -> None:
        self._tenants.clear()


class _DueMinutes:
    """Openings by the minute before which they cannot expire.

    A step puts that time off without a word here, so it is looked at again when it has come: a
    sweep costs what may have expired, not what is open.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, list[Opening]] = {}

    def put(self, expires_at: float, opening: Opening) -> None:
        self._minutes.setdefault(int(expires_at // 60), []).append(opening)

    def take(self, before: float, limit: int) -> list[Opening]:
        """At most `limit` of those whose time may have come."""
        taken: list[Opening] = []
        for minute in sorted(m for m in self._minutes if m * 60 <= before):
            openings = self._minutes.pop(minute)
            room = limit - len(taken)
            taken += openings[:room]
            if openings[room:]:
                self._minutes[minute] = openings[room:]
                break
        return taken
