"""Sessions in Redis or Valkey: the store for replicas on several machines.

Rule 1: a write is one script on one key, which compares the revision, checks the expiry by the
        server's clock, and writes. A group is one round trip; its writes are independent.
Rule 2: a write that opens or closes a session or changes its header updates the indexes first, in
        an earlier round trip.
Rule 3: a write whose reply was lost is not repeated here; see `base`, rule 3.
Rule 4: the durability is that of the server: see `durability`.
"""

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from service.errors import StartUpError, StoreUnavailableError
from service.stores.base import (
    TOMBSTONE_S,
    Expired,
    StoreOptions,
    Usage,
    Write,
    WritesFailedError,
    read_for_list,
)
from service.stores.record.checksummed import checksum, decode_record, encode_header
from service.stores.record.record import (
    Key,
    Record,
    RecordFormatError,
    SessionHeader,
    revision_of,
    ttl_s_of,
)
from service.stores.redis import index as redis_index
from service.stores.redis.errors import failure_of, nothing_stored, unavailable_if_failed
from service.stores.redis.keys import (
    NUM_SHARDS,
    check_key,
    index_keys,
    member_of,
    session_key,
    shard_of,
    value_key,
)
from service.stores.redis.scripts import ANNOUNCE, CREATE, STEP, SWAP, ScriptCall, run_scripts
from service.stores.redis.server import NOT_REACHED, inspect_servers
from service.stores.redis.topology import Command, topology_of
from service.stores.redis.url import RedisAddress, read_redis_url

_CHECKSUM: Final = struct.Struct("<I")
_PAGE: Final = 500
_CLOCK_VALID_S: Final = 30.0
_CHECK_TTL_MS: Final = 60_000

Outcome = Record | StoreUnavailableError | None


class RedisStore:
    """Open with `RedisStore.open`; used from one event loop."""

    waits = True

    def __init__(
        self, address: RedisAddress, timeout_s: float, clock: Callable[[], float] | None = None
    ) -> None:
        """Tests pass a `clock` that replaces the server's."""
        self.durability = NOT_REACHED
        self._topology = address.topology
        self._timeout_s = timeout_s
        self._servers = topology_of(address, timeout_s)
        self._clock = clock
        self._ahead_s, self._measured_at = 0.0, float("-inf")

    @classmethod
    def open(cls, url: str, options: StoreOptions) -> "RedisStore":
        """Inspect the server. If it is down, the service starts and is not ready.

        Raises:
            StartUpError: an invalid URL, or a server that was reached but cannot be used.
        """
        address = read_redis_url(url, options.password_file, options.ca_file)
        store = cls(address, options.timeout_s)

        async def inspect() -> str:
            servers = topology_of(address, options.timeout_s)
            try:
                return await inspect_servers(servers, address.topology)
            finally:
                await servers.close()

        # In a separate event loop, because that of the store does not run yet.
        with ThreadPoolExecutor(1) as thread:
            store.durability = thread.submit(asyncio.run, inspect()).result()
        return store

    async def load(self, key: Key) -> Record | None:
        at = session_key(member_of(key))
        read = Command(at, ("HMGET", at, "o", "d", "x"))
        [fields] = unavailable_if_failed(await self._servers.send([read]))
        return None if fields[0] is None else _record(*fields)

    async def commit(self, writes: Sequence[Write]) -> list[Record | None]:
        steps: list[tuple[int, ScriptCall]] = []
        others: list[tuple[int, ScriptCall]] = []
        announcements: list[ScriptCall] = []
        for index, (header, data, base) in enumerate(writes):
            member = member_of(Key(header.tenant, header.name))
            closed = Record(header, data).closed
            call = self._write(member, header, data, base, closed)
            if base is not None and header is base.header and not closed:
                steps.append((index, call))
            else:
                others.append((index, call))
                change = member, "close" if closed else "open", repr(ttl_s_of(data))
                keys = index_keys(shard_of(member))
                announcements.append(ScriptCall(ANNOUNCE, keys, *change, self._given_time))
        calls = [call for _, call in steps]
        due_at = asyncio.get_running_loop().time() + self._timeout_s  # of both round trips
        replies = await run_scripts(self._servers, calls + announcements, due_at)
        by_index: dict[int, object] = {
            index: reply for (index, _), reply in zip(steps, replies, strict=False)
        }
        if others:
            by_index |= await self._write_announced(others, replies[len(steps) :], due_at)
        return self._outcomes(writes, by_index)

    async def _write_announced(
        self, others: list[tuple[int, ScriptCall]], announced: list[object], due_at: float
    ) -> dict[int, object]:
        """Replies by index; a session whose index entry could not be written is not touched."""
        refused: dict[int, object] = {
            index: nothing_stored("the session store could not be written", reply)
            for (index, _), reply in zip(others, announced, strict=True)
        }
        ready = [each for each, reply in zip(others, announced, strict=True) if reply == 1]
        replies = await run_scripts(self._servers, [call for _, call in ready], due_at)
        return refused | {index: reply for (index, _), reply in zip(ready, replies, strict=True)}

    def _outcomes(self, writes: Sequence[Write], replies: dict[int, object]) -> list[Record | None]:
        records: list[Record | None] = []
        outcomes: list[Outcome] = []
        for index, (header, data, _) in enumerate(writes):
            reply = replies[index]
            record = self._stored(header, data, reply) if isinstance(reply, bytes) else None
            records.append(record)
            outcomes.append(record or failure_of(reply))
        if any(isinstance(each, StoreUnavailableError) for each in outcomes):
            raise WritesFailedError(outcomes)
        return records

    async def list_live(
        self, tenant: str, model: str | None, after: str, limit: int
    ) -> list[Record]:
        now = await self.now()
        records: list[Record] = []
        while len(records) < limit:
            page = await redis_index.members_after(self._servers, tenant, after, _PAGE)
            keys = [session_key(member) for member in page]
            reads = [Command(key, ("HMGET", key, "o", "d", "x", "c", "m")) for key in keys]
            found = unavailable_if_failed(await self._servers.send(reads) if reads else [])
            for header, data, expires_at, closed, of_model in found:
                is_of_model = model is None or of_model == model.encode()
                if header is None or closed or float(expires_at) <= now or not is_of_model:
                    continue
                record = read_for_list(partial(_record, header, data, expires_at))
                records += [record] if record else []
            if len(page) < _PAGE:
                break
            after = page[-1].partition(b"\0")[2].decode()
        return records[:limit]

    async def usage(self, tenant: str) -> Usage:
        is_cluster = self._topology == "cluster"
        now = await self.now()
        return await redis_index.usage(
            self._servers, tenant, now, self._given_time, is_cluster=is_cluster
        )

    async def sweep(self, limit: int) -> list[Expired]:
        before = await self.now() - TOMBSTONE_S
        return await redis_index.sweep(self._servers, before, limit, self._given_time)

    async def read_value(self, name: str) -> bytes:
        key = value_key(name)
        [found] = unavailable_if_failed(await self._servers.send([Command(key, ("GET", key))]))
        return found or b""

    async def swap_value(self, name: str, old: bytes, new: bytes) -> bool:
        call = ScriptCall(SWAP, [value_key(name)], old, new, self._given_time)
        [reply] = await run_scripts(self._servers, [call])
        if (error := failure_of(reply)) is not None:
            raise error
        return reply == 1

    async def now(self) -> float:
        """The server's clock, from a recent write or by a query."""
        if self._clock is not None:
            return self._clock()
        if time.monotonic() - self._measured_at > _CLOCK_VALID_S:
            [reply] = unavailable_if_failed(await self._servers.send([Command(b"", ("TIME",))]))
            self._saw_clock(int(reply[0]) + int(reply[1]) / 1e6)
        return time.monotonic() + self._ahead_s

    async def check(self) -> None:
        writes = []
        for shard in range(NUM_SHARDS):
            key = check_key(shard)
            writes.append(Command(key, ("SET", key, b"", "PX", _CHECK_TTL_MS)))
        unavailable_if_failed(await self._servers.send(writes))
        if self.durability == NOT_REACHED:
            try:
                self.durability = await inspect_servers(self._servers, self._topology)
            except StartUpError as error:  # it was down when the service started
                raise StoreUnavailableError(str(error), retry_after_s=1) from error

    async def close(self) -> None:
        await self._servers.close()

    @property
    def _given_time(self) -> str | float:
        """The time argument of scripts: "" for the server's clock."""
        return "" if self._clock is None else repr(self._clock())

    def _write(
        self, member: bytes, header: SessionHeader, data: bytes, base: Record | None, closed: str
    ) -> ScriptCall:
        key, revision, ttl_s = session_key(member), revision_of(data), repr(ttl_s_of(data))
        checked, now = _checksummed(data), self._given_time
        described = b"", "", ""
        if base is None or header is not base.header:
            described = _checksummed(encode_header(header)), header.model, header.version
        if base is None:
            return ScriptCall(CREATE, [key], revision, ttl_s, checked, *described, now)
        write = revision_of(base.data), revision, ttl_s, closed, checked
        return ScriptCall(STEP, [key], *write, *described, now)

    def _stored(self, header: SessionHeader, data: bytes, reply: bytes) -> Record:
        expires_at = float(reply)
        self._saw_clock(expires_at - ttl_s_of(data))
        return Record(header, data, expires_at)

    def _saw_clock(self, now: float) -> None:
        self._measured_at = time.monotonic()
        self._ahead_s = now - self._measured_at


def _checksummed(part: bytes) -> bytes:
    return _CHECKSUM.pack(checksum(part)) + part


def _record(header: bytes, data: bytes, expires_at: bytes) -> Record:
    if min(len(header), len(data)) < _CHECKSUM.size:
        raise RecordFormatError("session record is damaged: it is truncated")
    [header_checksum], [data_checksum] = _CHECKSUM.unpack_from(header), _CHECKSUM.unpack_from(data)
    parts = header[_CHECKSUM.size :], header_checksum, data[_CHECKSUM.size :], data_checksum
    return decode_record(*parts, float(expires_at))
