"""Sessions in the memory of this process: nothing survives it, and no call waits for a disk.

An entry is two byte strings and a time, which Python's garbage collector does not traverse: with a
million sessions of ordinary objects its pauses would be long.
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

# index of the fingerprint, bytes of JSON, digest of the opening request
_HEADER = struct.Struct("<II16s")

_MAX_DELAY_S = 3600.0
"""The longest delay, so that the name of a closed session is released soon."""

_MAX_PAGES = 10
"""Pages of due names that one sweep reads, each as long as its limit."""


class _Entry(NamedTuple):
    header: bytes
    data: bytes
    expires_at: float


class MemoryStore:
    durability = "none"
    waits = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        # By tenant, then by name: a tuple as the key of each session would cost 72 bytes.
        self._tenants: dict[str, dict[str, _Entry]] = {}
        self._fingerprints: list[ModelFingerprint] = []
        self._due = _DueMinutes()
        self._values: dict[str, bytes] = {}

    async def load(self, key: Key) -> Record | None:
        entry = self._tenants.get(key.tenant, {}).get(key.name)
        return self._record(key, entry) if entry else None

    async def commit(self, writes: Sequence[Write]) -> list[Record | None]:
        now = self._clock()
        return [self._commit_one(header, data, base, now) for header, data, base in writes]

    def _commit_one(
        self, header: SessionHeader, data: bytes, base: Record | None, now: float
    ) -> Record | None:
        entries = self._tenants.setdefault(header.tenant, {})
        found = entries.get(header.name)
        expires_at = now + ttl_s_of(data)
        if base is None:
            if found and found.expires_at > now and not is_closed(found.data):
                return None
            packed = self._pack(header)
        else:
            if found is None or found.expires_at <= now:
                return None
            # Usually it is the same object as in the last reply.
            if found.data is not base.data and revision_of(found.data) != revision_of(base.data):
                return None
            packed = found.header if header is base.header else self._pack(header)
        record = Record(header, data, expires_at)
        entries[header.name] = _Entry(packed, data, expires_at)
        if base is None or record.closed or header is not base.header:
            self._due.put(min(expires_at, now + _MAX_DELAY_S), header.tenant, header.name)
        return record

    async def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Record]:
        now = self._clock()
        found = (
            record
            for name, entry in self._tenants.get(tenant, {}).items()
            if name > after and entry.expires_at > now
            for record in [self._record(Key(tenant, name), entry)]
            if model in (None, record.header.model) and not record.closed
        )
        return nsmallest(limit, found, key=lambda record: record.header.name)

    async def usage(self, tenant: str) -> Usage:
        now = self._clock()
        live = [
            len(entry.header) + len(entry.data)
            for entry in self._tenants.get(tenant, {}).values()
            if entry.expires_at > now and not is_closed(entry.data)
        ]
        return Usage(len(live), sum(live))

    async def sweep(self, limit: int) -> list[Expired]:
        now = self._clock()
        before = now - TOMBSTONE_S
        expired: list[Expired] = []
        reschedule: dict[Key, float] = {}
        for _ in range(_MAX_PAGES):
            taken = self._due.take(before, limit - len(expired))
            for key in taken:
                entry = self._tenants[key.tenant].get(key.name)
                if entry is None:
                    continue  # removed already
                if entry.expires_at > before:
                    reschedule[key] = min(entry.expires_at, now + _MAX_DELAY_S)
                    continue
                record = self._record(key, entry)
                fingerprint = record.header.fingerprint
                expired.append(Expired(key, fingerprint.model, fingerprint.version, record.closed))
                del self._tenants[key.tenant][key.name]
            if not taken or len(expired) == limit:
                break
        for key, expires_at in reschedule.items():  # afterwards: else they would be taken again
            self._due.put(expires_at, *key)
        return expired

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
        """A header without tenant and name, which are the keys of the entry."""
        if header.fingerprint not in self._fingerprints:
            self._fingerprints.append(header.fingerprint)
        rest = [header.start_s, header.ring_size, header.created_at, header.history]
        described = orjson.dumps([*rest, header.metadata, *(header.keeps or ())])
        index = self._fingerprints.index(header.fingerprint)
        return _HEADER.pack(index, len(described), header.digest) + described + header.outputs

    def _record(self, key: Key, entry: _Entry) -> Record:
        index, size, digest = _HEADER.unpack_from(entry.header)
        described = entry.header[_HEADER.size : _HEADER.size + size]
        start_s, ring_size, created_at, history, metadata, *keeps = orjson.loads(described)
        header = SessionHeader(
            tenant=key.tenant,
            name=key.name,
            fingerprint=self._fingerprints[index],
            start_s=start_s,
            ring_size=ring_size,
            created_at=created_at,
            metadata=metadata,
            history=history,
            digest=digest,
            outputs=entry.header[_HEADER.size + size :],
            keeps=HistoryPolicy(*keeps) if keeps else None,
        )
        return Record(header, entry.data, entry.expires_at)


class _DueMinutes:
    """Sessions by the earliest minute in which they may expire.

    A step extends the expiry without an update here, so the sweep checks each due session and
    reschedules it if needed. A sweep costs as much as is due, not as much as is open.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[int, str], list[str]] = {}  # by minute and tenant

    def put(self, expires_at: float, tenant: str, name: str) -> None:
        self._names.setdefault((int(expires_at // 60), tenant), []).append(name)

    def take(self, before: float, limit: int) -> list[Key]:
        """Remove and return at most `limit` sessions that may have expired, without duplicates.

        A minute is taken from its end, so that the rest of its list is not moved.
        """
        taken: list[Key] = []
        for minute, tenant in sorted(each for each in self._names if each[0] * 60 <= before):
            names = self._names[minute, tenant]
            while names and len(taken) < limit:
                taken.append(Key(tenant, names.pop()))
            if names:
                break
            del self._names[minute, tenant]
        # A name that was opened again has several entries.
        return list(dict.fromkeys(taken))
