"""Lists of sessions and their sweeping, over the indexes beside them.

Rule 1: an entry proves nothing. A list and a sweep look at the session itself.
Rule 2: an expiry is reported by the process that removed the session, or whose reply was lost: at
        least once, however many replicas sweep, and twice at most where an answer was lost.
Rule 3: an entry without a session is removed when it is due, not before: the process that wrote
        it may be about to write the session.
"""

from collections.abc import Sequence
from heapq import merge
from typing import Any, Final, NamedTuple

from service.stores.base import Expired, Usage
from service.stores.redis.answers import unavailable_if_failed
from service.stores.redis.keys import NUM_SHARDS, index_keys, key_of, session_key, shard_of
from service.stores.redis.node import LostError
from service.stores.redis.scripts import FORGET, PUT_OFF, REMOVE, USAGE, Call, run_scripts
from service.stores.redis.topology import Command, Topology

_MAX_ROUNDS: Final = 1000
_AT_ONCE: Final = 100


class _Due(NamedTuple):
    score: bytes  # as the server wrote it, to be compared by it
    member: bytes

    @property
    def at(self) -> float:
        return float(self.score)


async def members_after(servers: Topology, tenant: str, after: str, limit: int) -> list[bytes]:
    """Entries of a tenant by name, the first `limit` of those behind `after`."""
    first, last = f"({tenant}\0{after}".encode(), f"({tenant}\1".encode()
    commands = []
    for shard in range(NUM_SHARDS):
        names, _ = index_keys(shard)
        words = "ZRANGEBYLEX", names, first, last, "LIMIT", 0, limit
        commands.append(Command(names, words))
    found = unavailable_if_failed(await servers.send(commands))
    return list(merge(*found))[:limit]


async def usage(
    servers: Topology, tenant: str, now: float, given_time: str | float, *, is_cluster: bool
) -> Usage:
    """What is live of a tenant. On a cluster sessions lie elsewhere than their names: each is asked
    for by itself, which costs a hundred times as much."""
    num_sessions = num_bytes = 0
    last = f"({tenant}\1".encode()
    pages = {index_keys(shard)[0]: f"({tenant}\0".encode() for shard in range(NUM_SHARDS)}
    while pages:
        found = await (_asked if is_cluster else _counted)(servers, pages, last, now, given_time)
        num_sessions += sum(each[0] for each in found)
        num_bytes += sum(each[1] for each in found)
        pages = {names: b"(" + end for names, (_, _, end) in zip(pages, found, strict=True) if end}
    return Usage(num_sessions, num_bytes)


async def _counted(
    servers: Topology, pages: dict[bytes, bytes], last: bytes, _: float, given_time: str | float
) -> list[tuple[int, int, bytes]]:
    """Sessions and bytes of the page of each index behind a name, and its end if it is full."""
    head = session_key(b"")
    calls = [
        Call(USAGE, [names], after, last, _AT_ONCE, head, given_time)
        for names, after in pages.items()
    ]
    counted: list[tuple[int, int, bytes]] = unavailable_if_failed(await run_scripts(servers, calls))
    return counted


async def _asked(
    servers: Topology, pages: dict[bytes, bytes], last: bytes, now: float, _: str | float
) -> list[tuple[int, int, bytes]]:
    """As `_counted`, by asking for each session."""
    commands = [
        Command(names, ("ZRANGEBYLEX", names, after, last, "LIMIT", 0, _AT_ONCE))
        for names, after in pages.items()
    ]
    asked = []
    for page in unavailable_if_failed(await servers.send(commands)):
        sizes = await _sizes(servers, page, now)
        asked.append((len(sizes), sum(sizes), page[-1] if len(page) == _AT_ONCE else b""))
    return asked


async def _sizes(servers: Topology, members: Sequence[bytes], now: float) -> list[int]:
    """The bytes of each that is live."""
    reads = []
    for key in map(session_key, members):
        reads.append(Command(key, ("HMGET", key, "x", "c")))
        reads += [Command(key, ("HSTRLEN", key, part)) for part in "od"]
    found: list[Any] = unavailable_if_failed(await servers.send(reads) if reads else [])
    return [
        header + data
        for (expires_at, closed), header, data in zip(*[iter(found)] * 3, strict=True)
        if expires_at is not None and not closed and float(expires_at) > now
    ]


async def sweep(
    servers: Topology, before: float, limit: int, given_time: str | float
) -> list[Expired]:
    """Take away at most `limit` sessions that ended before `before`, and say which."""
    swept: list[Expired] = []
    for _ in range(_MAX_ROUNDS):
        wanted = limit - len(swept)
        due = await _due(servers, before, wanted)
        some, has_changed = await _sweep_some(servers, due, before, given_time)
        swept += some
        if not has_changed or len(due) < wanted or len(swept) >= limit:
            break
    return swept


async def _due(servers: Topology, before: float, limit: int) -> list[_Due]:
    commands = []
    for shard in range(NUM_SHARDS):
        _, due = index_keys(shard)
        words = "ZRANGEBYSCORE", due, "-inf", repr(before), "WITHSCORES", "LIMIT", 0, limit
        commands.append(Command(due, words))
    found: list[list[bytes]] = unavailable_if_failed(await servers.send(commands))
    entries = [
        _Due(score, member)
        for shard in found
        for member, score in zip(shard[::2], shard[1::2], strict=True)
    ]
    return sorted(entries, key=lambda entry: entry.at)[:limit]


async def _sweep_some(
    servers: Topology, due: Sequence[_Due], before: float, given_time: str | float
) -> tuple[list[Expired], bool]:
    """What was taken away of these, and whether anything changed: else the next are these again."""
    keys = [session_key(entry.member) for entry in due]
    reads = [Command(key, ("HMGET", key, "r", "x", "c", "m", "v")) for key in keys]
    found: list[list[Any]] = unavailable_if_failed(await servers.send(reads) if reads else [])
    entries: list[Call] = []
    over: list[tuple[_Due, list[Any]]] = []
    removals: list[Call] = []
    for entry, key, fields in zip(due, keys, found, strict=True):
        revision, expires_at = fields[:2]
        names_and_due = index_keys(shard_of(entry.member))
        forget = Call(FORGET, names_and_due, entry.member, entry.score, given_time)
        if revision is None:
            entries.append(forget)
        elif float(expires_at) > before:
            reschedule = entry.member, entry.score, expires_at, given_time
            entries.append(Call(PUT_OFF, names_and_due[1:], *reschedule))
        else:
            removals.append(Call(REMOVE, [key], revision, repr(before), given_time))
            over.append((entry, fields))
            entries.append(forget)
    outcomes = await run_scripts(servers, removals)
    # After the sessions: an entry whose session still lies there would be needed again. One that
    # was changed meanwhile, because a session is being opened there, stays.
    failed = [
        entry.member
        for (entry, _), outcome in zip(over, outcomes, strict=True)
        if isinstance(outcome, Exception)
    ]
    settled = [call for call in entries if call.arguments[0] not in failed]
    done = [*outcomes, *await run_scripts(servers, settled)]
    swept = [
        Expired(key_of(entry.member), *(field.decode() for field in (model, version, closed)))
        for (entry, (_, _, closed, model, version)), outcome in zip(over, outcomes, strict=True)
        if outcome == 1 or isinstance(outcome, LostError)
    ]
    return swept, not all(isinstance(outcome, Exception) for outcome in done)
