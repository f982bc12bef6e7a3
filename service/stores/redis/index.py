"""Lists, usage and sweeps of sessions, by the indexes.

Rule 1: an entry of an index may be wrong. Lists and sweeps read the session itself.
Rule 2: the process that removed a session reports its expiry, and also one whose reply was lost: at
        least once, and at most twice if a reply was lost.
Rule 3: an entry without a session is removed when it is due, not before, because another process
        may be about to write the session.
"""

from collections.abc import Sequence
from heapq import merge
from typing import Any, Final, NamedTuple

from service.stores.base import Expired, Usage
from service.stores.redis.errors import unavailable_if_failed
from service.stores.redis.keys import NUM_SHARDS, index_keys, key_of, session_key, shard_of
from service.stores.redis.node import LostError
from service.stores.redis.scripts import FORGET, REMOVE, RESCHEDULE, USAGE, ScriptCall, run_scripts
from service.stores.redis.topology import Command, Topology

_MAX_ROUNDS: Final = 1000
_PAGE_ROWS: Final = 100


class _Due(NamedTuple):
    score: bytes  # as the server returned it, for comparison by the server
    member: bytes

    @property
    def at(self) -> float:
        return float(self.score)


async def members_after(servers: Topology, tenant: str, after: str, limit: int) -> list[bytes]:
    """The first `limit` entries of a tenant after `after`, by name."""
    first, last = f"({tenant}\0{after}".encode(), f"({tenant}\1".encode()
    commands = []
    for shard in range(NUM_SHARDS):
        names, _ = index_keys(shard)
        arguments = "ZRANGEBYLEX", names, first, last, "LIMIT", 0, limit
        commands.append(Command(names, arguments))
    found = unavailable_if_failed(await servers.send(commands))
    return list(merge(*found))[:limit]


async def usage(
    servers: Topology, tenant: str, now: float, given_time: str | float, *, is_cluster: bool
) -> Usage:
    """The live sessions of a tenant.

    In a cluster they are on other servers than their index, so each is queried, which takes a
    hundred times as long.
    """
    num_sessions = num_bytes = 0
    last = f"({tenant}\1".encode()
    pages = {index_keys(shard)[0]: f"({tenant}\0".encode() for shard in range(NUM_SHARDS)}
    while pages:
        found = await (_usage_by_session if is_cluster else _usage_by_index)(
            servers, pages, last, now, given_time
        )
        num_sessions += sum(each[0] for each in found)
        num_bytes += sum(each[1] for each in found)
        pages = {names: b"(" + end for names, (_, _, end) in zip(pages, found, strict=True) if end}
    return Usage(num_sessions, num_bytes)


async def _usage_by_index(
    servers: Topology, pages: dict[bytes, bytes], last: bytes, _: float, given_time: str | float
) -> list[tuple[int, int, bytes]]:
    """Of the page of each index: sessions, bytes, and its last member if the page is full."""
    prefix = session_key(b"")
    calls = [
        ScriptCall(USAGE, [names], after, last, _PAGE_ROWS, prefix, given_time)
        for names, after in pages.items()
    ]
    found: list[tuple[int, int, bytes]] = unavailable_if_failed(await run_scripts(servers, calls))
    return found


async def _usage_by_session(
    servers: Topology, pages: dict[bytes, bytes], last: bytes, now: float, _: str | float
) -> list[tuple[int, int, bytes]]:
    """As `_usage_by_index`, with a query for each session."""
    commands = [
        Command(names, ("ZRANGEBYLEX", names, after, last, "LIMIT", 0, _PAGE_ROWS))
        for names, after in pages.items()
    ]
    usages = []
    for page in unavailable_if_failed(await servers.send(commands)):
        sizes = await _sizes(servers, page, now)
        usages.append((len(sizes), sum(sizes), page[-1] if len(page) == _PAGE_ROWS else b""))
    return usages


async def _sizes(servers: Topology, members: Sequence[bytes], now: float) -> list[int]:
    """The bytes of each live session."""
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
    """Remove and return at most `limit` sessions that expired before `before`."""
    expired: list[Expired] = []
    for _ in range(_MAX_ROUNDS):
        num_entries = limit - len(expired)
        due = await _due(servers, before, num_entries)
        some, has_changed = await _sweep_some(servers, due, before, given_time)
        expired += some
        if not has_changed or len(due) < num_entries or len(expired) >= limit:
            break
    return expired


async def _due(servers: Topology, before: float, limit: int) -> list[_Due]:
    commands = []
    for shard in range(NUM_SHARDS):
        _, due = index_keys(shard)
        arguments = "ZRANGEBYSCORE", due, "-inf", repr(before), "WITHSCORES", "LIMIT", 0, limit
        commands.append(Command(due, arguments))
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
    """The removed sessions, and whether anything changed; if not, another round is useless."""
    keys = [session_key(entry.member) for entry in due]
    reads = [Command(key, ("HMGET", key, "r", "x", "c", "m", "v")) for key in keys]
    found: list[list[Any]] = unavailable_if_failed(await servers.send(reads) if reads else [])
    entries: list[ScriptCall] = []
    expired: list[tuple[_Due, list[Any]]] = []
    removals: list[ScriptCall] = []
    for entry, key, fields in zip(due, keys, found, strict=True):
        revision, expires_at = fields[:2]
        names_and_due = index_keys(shard_of(entry.member))
        forget = ScriptCall(FORGET, names_and_due, entry.member, entry.score, given_time)
        if revision is None:
            entries.append(forget)
        elif float(expires_at) > before:
            reschedule = entry.member, entry.score, expires_at, given_time
            entries.append(ScriptCall(RESCHEDULE, names_and_due[1:], *reschedule))
        else:
            removals.append(ScriptCall(REMOVE, [key], revision, repr(before), given_time))
            expired.append((entry, fields))
            entries.append(forget)
    outcomes = await run_scripts(servers, removals)
    # Entries after their sessions: that of a session which could not be removed is still needed.
    # FORGET leaves an entry that was changed meanwhile, because its name is being opened.
    failed = [
        entry.member
        for (entry, _), outcome in zip(expired, outcomes, strict=True)
        if isinstance(outcome, Exception)
    ]
    remaining = [call for call in entries if call.arguments[0] not in failed]
    done = [*outcomes, *await run_scripts(servers, remaining)]
    removed = [
        Expired(key_of(entry.member), *(field.decode() for field in (model, version, closed)))
        for (entry, (_, _, closed, model, version)), outcome in zip(expired, outcomes, strict=True)
        if outcome == 1 or isinstance(outcome, LostError)
    ]
    return removed, not all(isinstance(outcome, Exception) for outcome in done)
