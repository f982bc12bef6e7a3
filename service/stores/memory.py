"""Sessions in this process only: nothing survives it, and nothing waits for a disk.

What is kept of a session is two runs of bytes and a time, which Python's collector need not look
at: with a million sessions it would stop everybody to do so.
"""

import struct
import time
from collections.abc import Callable, Sequence
from heapq import nsmallest
from typing import NamedTuple

import orjson

from service.stores.base import TOMBSTONE_S, Expired, Usage, Write
from service.stores.record.history import HistoryPolicy
from service.stores.record.record import (
    Key,
    ModelFingerprint,
    Record,
    SessionHeader,
    is_closed,
    revision_of,
    ttl_s_of,
)

_OPENING = struct.Struct("<II16s")  # number of the origin, bytes of JSON, digest of the request


_LOOK_AGAIN_S = 3600.0
"""However long a session may live: so that the name of one that was closed is soon let go."""

_MAX_TAKES = 10
"""Of names, in one sweep: it looks at so many times more than it is asked to remove."""


class _Kept(NamedTuple):
    header: bytes
    data: bytes
    expires_at: float


class MemoryStore:
    durability = "none"
    waits = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        # By tenant, then by name: a key of its own for each session would cost 72 bytes.
        self._tenants: dict[str, dict[str, _Kept]] = {}
        self._origins: list[ModelFingerprint] = []
        self._due = _DueMinutes()
        self._values: dict[str, bytes] = {}

    async def load(self, key: Key) -> Record | None:
        kept = self._tenants.get(key.tenant, {}).get(key.name)
        return self._record(key, kept) if kept else None

    async def commit(self, writes: Sequence[Write]) -> list[Record | None]:
        now = self._clock()
        return [self._commit_one(header, data, base, now) for header, data, base in writes]

    def _commit_one(
        self, header: SessionHeader, data: bytes, base: Record | None, now: float
    ) -> Record | None:
        kept = self._tenants.setdefault(header.tenant, {})
        found = kept.get(header.name)
        expires_at = now + ttl_s_of(data)
        if base is None:
            if found and found.expires_at > now and not is_closed(found.data):
                return None
            packed = self._pack(header)
        else:
            if found is None or found.expires_at <= now:
                return None
            # Most often it is the very bytes that were answered last.
            if found.data is not base.data and revision_of(found.data) != revision_of(base.data):
                return None
            packed = found.header if header is base.header else self._pack(header)
        record = Record(header, data, expires_at)
        kept[header.name] = _Kept(packed, data, expires_at)
        if base is None or record.closed or header is not base.header:
            self._due.put(min(expires_at, now + _LOOK_AGAIN_S), header.tenant, header.name)
        return record

    async def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Record]:
        now = self._clock()
        found = (
            record
            for name, kept in self._tenants.get(tenant, {}).items()
            if name > after and kept.expires_at > now
            for record in [self._record(Key(tenant, name), kept)]
            if model in (None, record.header.model) and not record.closed
        )
        return nsmallest(limit, found, key=lambda record: record.header.name)

    async def usage(self, tenant: str) -> Usage:
        now = self._clock()
        live = [
            len(kept.header) + len(kept.data)
            for kept in self._tenants.get(tenant, {}).values()
            if kept.expires_at > now and not is_closed(kept.data)
        ]
        return Usage(len(live), sum(live))

    async def sweep(self, limit: int) -> list[Expired]:
        now = self._clock()
        before = now - TOMBSTONE_S
        swept: list[Expired] = []
        reschedule: dict[Key, float] = {}
        for _ in range(_MAX_TAKES):
            taken = self._due.take(before, limit - len(swept))
            for key in taken:
                kept = self._tenants[key.tenant].get(key.name)
                if kept is None:
                    continue  # swept already
                if kept.expires_at > before:
                    reschedule[key] = min(kept.expires_at, now + _LOOK_AGAIN_S)
                    continue
                record = self._record(key, kept)
                fingerprint = record.header.fingerprint
                swept.append(Expired(key, fingerprint.model, fingerprint.version, record.closed))
                del self._tenants[key.tenant][key.name]
            if not taken or len(swept) == limit:
                break
        for key, expires_at in reschedule.items():  # not before: they would be taken again
            self._due.put(expires_at, *key)
        return swept

    async def read_value(self, name: str) -> bytes:
        return self._values.get(name, b"")

    async def swap_value(self, name: str, old: bytes, new: bytes) -> bool:
        if self._values.get(name, b"") != old:
            return False
        self._values[name] = new
        return True

    async def now(self) -> float:
        return self._clock()

    async def check(self) -> None:
        return None

    async def close(self) -> None:
        self._tenants.clear()

    def _pack(self, header: SessionHeader) -> bytes:
        """An opening without its names, which are the keys that it is found by."""
        if header.fingerprint not in self._origins:
            self._origins.append(header.fingerprint)
        rest = [header.start_s, header.ring_size, header.created_at, header.history]
        described = orjson.dumps([*rest, header.metadata, *(header.keeps or ())])
        number = self._origins.index(header.fingerprint)
        return _OPENING.pack(number, len(described), header.digest) + described + header.outputs

    def _record(self, key: Key, kept: _Kept) -> Record:
        number, size, digest = _OPENING.unpack_from(kept.header)
        described = kept.header[_OPENING.size : _OPENING.size + size]
        start_s, ring_size, created_at, history, metadata, *keeps = orjson.loads(described)
        header = SessionHeader(
            tenant=key.tenant,
            name=key.name,
            fingerprint=self._origins[number],
            start_s=start_s,
            ring_size=ring_size,
            created_at=created_at,
            metadata=metadata,
            history=history,
            digest=digest,
            outputs=kept.header[_OPENING.size + size :],
            keeps=HistoryPolicy(*keeps) if keeps else None,
        )
        return Record(header, kept.data, kept.expires_at)


class _DueMinutes:
    """Sessions by the minute before which they cannot expire.

    A step puts that time off without a word here, so it is looked at again when it has come: a
    sweep costs what may have expired, not what is open.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[int, str], list[str]] = {}  # by minute and tenant

    def put(self, expires_at: float, tenant: str, name: str) -> None:
        self._names.setdefault((int(expires_at // 60), tenant), []).append(name)

    def take(self, before: float, limit: int) -> list[Key]:
        """At most `limit` of those whose time may have come, each once.

        The last of a minute go first, so that the others need not be moved.
        """
        taken: list[Key] = []
        for minute, tenant in sorted(each for each in self._names if each[0] * 60 <= before):
            names = self._names[minute, tenant]
            while names and len(taken) < limit:
                taken.append(Key(tenant, names.pop()))
            if names:
                break
            del self._names[minute, tenant]
        # A name opened anew stands there for each of its lives.
        return list(dict.fromkeys(taken))
