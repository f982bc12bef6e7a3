"""Sessions in Redis or Valkey: the store that replicas on several machines share.

Rule 1: a write is one script at one key, which compares the revision, judges the expiry by the
        server's clock, and writes. A group is one round trip; no write depends on another.
Rule 2: what opens, closes or turns a session into another (a new opening) is said to the indexes
        first, in a round trip before.
Rule 3: a write whose answer was lost is not repeated here; see `base`, rule 3.
Rule 4: what a server promises is what this store promises: see `durability`.
"""

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import structlog

from service.errors import StartUpError, StoreUnavailableError
from service.stores.base import TOMBSTONE_S, Expired, StoreOptions, Usage, Write, WritesFailedError
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
from service.stores.redis.answers import failure_of, unavailable_if_failed
from service.stores.redis.keys import (
    NUM_SHARDS,
    check_key,
    index_keys,
    member_of,
    session_key,
    shard_of,
    value_key,
)
from service.stores.redis.scripts import ANNOUNCE, CREATE, STEP, SWAP, Call, run_scripts
from service.stores.redis.server import NOT_ASKED, look_at_servers
from service.stores.redis.topology import Command, topology_of
from service.stores.redis.url import RedisAddress, read_redis_url

log = structlog.get_logger()

_SEAL: Final = struct.Struct("<I")
_PAGE: Final = 500
_CLOCK_KEPT_S: Final = 30.0
_CHECK_KEPT_MS: Final = 60_000

History = Record | StoreUnavailableError | None


class RedisStore:
    """Open with `RedisStore.open`; used from one event loop."""

    waits = True

    def __init__(
        self, address: RedisAddress, timeout_s: float, clock: Callable[[], float] | None = None
    ) -> None:
        """`clock` stands in for the server's, in tests."""
        self.durability = NOT_ASKED
        self._topology = address.topology
        self._timeout_s = timeout_s
        self._servers = topology_of(address, timeout_s)
        self._clock = clock
        self._ahead_s, self._measured_at = 0.0, float("-inf")

    @classmethod
    def open(cls, url: str, options: StoreOptions) -> "RedisStore":
        """Look at the server, which may be away: then the service starts, and is not ready.

        Raises:
            StartUpError: an URL that is none, or a server that can be reached and not be used.
        """
        address = read_redis_url(url, options.password_file, options.ca_file)
        store = cls(address, options.timeout_s)

        async def look() -> str:
            servers = topology_of(address, options.timeout_s)
            try:
                return await look_at_servers(servers, address.topology)
            finally:
                await servers.close()

        # On a loop of its own: the one that the store will live on does not run yet.
        with ThreadPoolExecutor(1) as thread:
            store.durability = thread.submit(asyncio.run, look()).result()
        return store

    async def load(self, key: Key) -> Record | None:
        lies_at = session_key(member_of(key))
        read = Command(lies_at, ("HMGET", lies_at, "o", "d", "x"))
        [fields] = unavailable_if_failed(await self._servers.send([read]))
        return None if fields[0] is None else _record(*fields)

    async def commit(self, writes: Sequence[Write]) -> list[Record | None]:
        steps: list[tuple[int, Call]] = []
        others: list[tuple[int, Call]] = []
        announcements: list[Call] = []
        for place, (header, data, base) in enumerate(writes):
            member = member_of(Key(header.tenant, header.name))
            closed = Record(header, data).closed
            call = self._write(member, header, data, base, closed)
            if base is not None and header is base.header and not closed:
                steps.append((place, call))
            else:
                others.append((place, call))
                what = member, "close" if closed else "open", repr(ttl_s_of(data))
                keys = index_keys(shard_of(member))
                announcements.append(Call(ANNOUNCE, keys, *what, self._given_time))
        calls = [call for _, call in steps]
        due_at = asyncio.get_running_loop().time() + self._timeout_s  # of both round trips
        replies = await run_scripts(self._servers, calls + announcements, due_at)
        answers: dict[int, object] = {
            place: reply for (place, _), reply in zip(steps, replies, strict=False)
        }
        if others:
            answers |= await self._write_announced(others, replies[len(steps) :], due_at)
        return self._outcomes(writes, answers)

    async def _write_announced(
        self, others: list[tuple[int, Call]], announced: list[object], due_at: float
    ) -> dict[int, object]:
        """Replies by place; where the index could not be told, the session is not touched."""
        answers: dict[int, object] = {
            place: _not_announced(reply)
            for (place, _), reply in zip(others, announced, strict=True)
        }
        ready = [each for each, reply in zip(others, announced, strict=True) if reply == 1]
        replies = await run_scripts(self._servers, [call for _, call in ready], due_at)
        return answers | {place: reply for (place, _), reply in zip(ready, replies, strict=True)}

    def _outcomes(self, writes: Sequence[Write], answers: dict[int, object]) -> list[Record | None]:
        kept: list[Record | None] = []
        outcomes: list[History] = []
        for place, (header, data, _) in enumerate(writes):
            answer = answers[place]
            record = self._kept(header, data, answer) if isinstance(answer, bytes) else None
            kept.append(record)
            outcomes.append(record or failure_of(answer))
        if any(isinstance(each, StoreUnavailableError) for each in outcomes):
            raise WritesFailedError(outcomes)
        return kept

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
                is_wanted = model is None or of_model == model.encode()
                if header is None or closed or float(expires_at) <= now or not is_wanted:
                    continue
                record = _readable(header, data, expires_at)
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
        call = Call(SWAP, [value_key(name)], old, new, self._given_time)
        [reply] = await run_scripts(self._servers, [call])
        if (error := failure_of(reply)) is not None:
            raise error
        return reply == 1

    async def now(self) -> float:
        """The server's clock, as it was read off a recent write, or asked for."""
        if self._clock is not None:
            return self._clock()
        if time.monotonic() - self._measured_at > _CLOCK_KEPT_S:
            [reply] = unavailable_if_failed(await self._servers.send([Command(b"", ("TIME",))]))
            self._saw_clock(int(reply[0]) + int(reply[1]) / 1e6)
        return time.monotonic() + self._ahead_s

    async def check(self) -> None:
        writes = []
        for shard in range(NUM_SHARDS):
            key = check_key(shard)
            writes.append(Command(key, ("SET", key, b"", "PX", _CHECK_KEPT_MS)))
        unavailable_if_failed(await self._servers.send(writes))
        if self.durability == NOT_ASKED:
            try:
                self.durability = await look_at_servers(self._servers, self._topology)
            except StartUpError as error:  # it was away when the service started
                raise StoreUnavailableError(str(error), retry_after_s=1) from error

    async def close(self) -> None:
        await self._servers.close()

    @property
    def _given_time(self) -> str | float:
        """What scripts are to take for the time: "" for the server's."""
        return "" if self._clock is None else repr(self._clock())

    def _write(
        self, member: bytes, header: SessionHeader, data: bytes, base: Record | None, closed: str
    ) -> Call:
        key, revision, ttl_s = session_key(member), revision_of(data), repr(ttl_s_of(data))
        sealed, now = _sealed(data), self._given_time
        described = b"", "", ""
        if base is None or header is not base.header:
            described = _sealed(encode_header(header)), header.model, header.version
        if base is None:
            return Call(CREATE, [key], revision, ttl_s, sealed, *described, now)
        write = revision_of(base.data), revision, ttl_s, closed, sealed
        return Call(STEP, [key], *write, *described, now)

    def _kept(self, header: SessionHeader, data: bytes, answer: bytes) -> Record:
        expires_at = float(answer)
        self._saw_clock(expires_at - ttl_s_of(data))
        return Record(header, data, expires_at)

    def _saw_clock(self, now: float) -> None:
        self._measured_at = time.monotonic()
        self._ahead_s = now - self._measured_at


def _not_announced(reply: object) -> StoreUnavailableError:
    """Whatever became of the entry of an index: its session was not touched."""
    return StoreUnavailableError(
        f"the session store could not be written ({reply}); nothing of this request was stored: try"
        " again",
        retry_after_s=1,
    )


def _sealed(part: bytes) -> bytes:
    return _SEAL.pack(checksum(part)) + part


def _record(header: bytes, data: bytes, expires_at: bytes) -> Record:
    if min(len(header), len(data)) < _SEAL.size:
        raise RecordFormatError("session record is damaged: it is cut short")
    [opening_seal], [data_seal] = _SEAL.unpack_from(header), _SEAL.unpack_from(data)
    parts = header[_SEAL.size :], opening_seal, data[_SEAL.size :], data_seal
    return decode_record(*parts, float(expires_at))


def _readable(*fields: Any) -> Record | None:  # noqa: ANN401 -- as they were read
    """A record for a list: one that cannot be read must not hide the others."""
    try:
        return _record(*fields)
    except RecordFormatError as error:
        log.warning("record left out of a list", reason=error.detail)
        return None
