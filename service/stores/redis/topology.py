"""Routes commands: to the single server, the primary that sentinels name, or the server of a slot.

Rule 1: the commands of one call go to each server in one round trip, and each has its own reply or
        error.
Rule 2: a command is sent again only if the server did not carry it out, which MOVED and ASK say. An
        unknown outcome stays unknown (`LostError`).
Rule 3: a call ends within `timeout_s`, including redirections and the search for a server.
Rule 4: any failure discards the known primary or slots, so that the next call follows a failover.

Of redis-py only the connections are used: with its cluster client one dead server fails the groups
of all (docs/decisions/0059).
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ReadOnlyError

from service.stores.redis.node import Arguments, LostError, Node, NotSentError
from service.stores.redis.url import Endpoint, RedisAddress

T = TypeVar("T")

_NUM_SLOTS: Final = 16384
_MAX_REDIRECTIONS: Final = 4
_FAILOVER_SIGNS: Final = (NotSentError, LostError, ReadOnlyError, ClusterDownError)
"""Signs of a possible failover."""


class Command(NamedTuple):
    """A command and the key that selects its server."""

    key: bytes
    arguments: Arguments


class Topology(Protocol):
    """The servers of a store."""

    async def send(self, commands: Sequence[Command], due_at: float | None = None) -> list[Any]:
        """Replies or errors in order. `due_at`: see `Node.send`."""

    async def send_to_each(self, arguments: Arguments) -> list[Any]:
        """The reply of each primary."""

    async def close(self) -> None:
        """Close every connection."""


def topology_of(address: RedisAddress, timeout_s: float) -> Topology:
    """The servers of an address, not connected yet."""

    def make(endpoint: Endpoint) -> Node:
        return Node(endpoint, address, timeout_s)

    if address.topology == "cluster":
        return Cluster(address.endpoints, make, timeout_s)
    if address.topology == "sentinel":
        sentinel_address = RedisAddress(
            topology="single",
            endpoints=address.endpoints,
            uses_tls=address.uses_tls,
            ca_file=address.ca_file,
        )
        sentinels = [Node(endpoint, sentinel_address, timeout_s) for endpoint in address.endpoints]
        return Sentinels(sentinels, address.service, make, timeout_s)
    return Single(make(address.endpoints[0]))


class Single:
    """One server."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def send(self, commands: Sequence[Command], due_at: float | None = None) -> list[Any]:
        return await self._node.send([command.arguments for command in commands], due_at)

    async def send_to_each(self, arguments: Arguments) -> list[Any]:
        return await self._node.send([arguments])

    async def close(self) -> None:
        await self._node.close()


class Sentinels:
    """The primary of a service, by its sentinels."""

    def __init__(
        self,
        sentinels: list[Node],
        service: str,
        make: Callable[[Endpoint], Node],
        timeout_s: float,
    ) -> None:
        self._timeout_s = timeout_s
        self._sentinels = sentinels
        self._service = service
        self._make = make
        self._node: Node | None = None
        self._search: asyncio.Task[None] | None = None

    async def send(self, commands: Sequence[Command], due_at: float | None = None) -> list[Any]:
        return await self._send([command.arguments for command in commands], due_at)

    async def send_to_each(self, arguments: Arguments) -> list[Any]:
        return await self._send([arguments], None)

    async def close(self) -> None:
        for node in [*self._sentinels, *([self._node] if self._node else [])]:
            await node.close()

    async def _send(self, commands: Sequence[Arguments], due_at: float | None) -> list[Any]:
        due_at = due_at or _time_in(self._timeout_s)
        if self._node is None:  # one search for all callers
            if self._search is None or self._search.done():
                self._search = asyncio.create_task(self._find_primary(_time_in(self._timeout_s)))
            if not await _ends_by(self._search, due_at):
                timeout = TimeoutError(f"no primary of {self._service!r} was found in time")
                return [NotSentError(timeout)] * len(commands)
        node = self._node
        if node is None:
            error = NotSentError(f"no sentinel knows a primary of {self._service!r}")
            return [error] * len(commands)
        replies = await node.send(commands, due_at)
        if self._node is node and any(isinstance(each, _FAILOVER_SIGNS) for each in replies):
            self._node = None
            await node.close()
        return replies

    async def _find_primary(self, due_at: float) -> None:
        query = "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service

        async def primary_of(sentinel: Node) -> Endpoint | None:
            [endpoint] = await sentinel.send([query], due_at)
            if not isinstance(endpoint, list):
                return None
            node = self._make((endpoint[0].decode(), int(endpoint[1])))
            try:
                [role] = await node.send([("ROLE",)], due_at)
            finally:
                await node.close()
            # The sentinel may not know of a failover yet.
            is_primary = isinstance(role, list) and role[0] == b"master"
            return node.endpoint if is_primary else None

        endpoint = await _first([primary_of(sentinel) for sentinel in self._sentinels])
        self._node = self._make(endpoint) if endpoint else None


class Cluster:
    """Servers of a cluster, each with a part of the slots."""

    def __init__(
        self, seeds: Sequence[Endpoint], make: Callable[[Endpoint], Node], timeout_s: float
    ) -> None:
        self._timeout_s = timeout_s
        self._seeds = seeds
        self._make = make
        self._nodes: dict[Endpoint, Node] = {}
        self._slots: list[Endpoint | None] = []
        self._slots_request: asyncio.Task[None] | None = None

    async def send(self, commands: Sequence[Command], due_at: float | None = None) -> list[Any]:
        due_at = due_at or _time_in(self._timeout_s)
        endpoints = await self._endpoints_of(commands, due_at)
        if endpoints is None:
            error = TimeoutError("no server of the cluster returned the slots in time")
            return [NotSentError(error)] * len(commands)
        replies: list[Any] = [NotSentError("no server of the cluster has its slot")] * len(commands)
        left = [(index, endpoint, False) for index, endpoint in enumerate(endpoints) if endpoint]
        for _ in range(_MAX_REDIRECTIONS):
            await self._send_some(commands, left, replies, due_at)
            left = []
            for index, reply in enumerate(replies):
                if isinstance(reply, AskError):  # MovedError is one as well
                    # A server that does not know its own host omits it.
                    sender = endpoints[index] or self._seeds[0]
                    endpoint = (reply.host or sender[0], reply.port)
                    is_moved = isinstance(reply, MovedError)
                    left.append((index, endpoint, not is_moved))
                    if is_moved and self._slots:  # another call may have discarded them
                        self._slots[reply.slot_id] = endpoint
            if not left:
                break
        if any(isinstance(each, _FAILOVER_SIGNS) for each in replies):
            self._slots = []
        return replies

    async def send_to_each(self, arguments: Arguments) -> list[Any]:
        due_at = _time_in(self._timeout_s)
        await self._endpoints_of([], due_at)
        primaries = dict.fromkeys(endpoint for endpoint in self._slots if endpoint)
        if not primaries:
            return [NotSentError("no server of the cluster was reached")]
        replies = await asyncio.gather(
            *(self._node(endpoint).send([arguments], due_at) for endpoint in primaries)
        )
        return [each for [each] in replies]

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.close()

    async def _endpoints_of(
        self, commands: Sequence[Command], due_at: float
    ) -> list[Endpoint | None] | None:
        """The endpoint of each command; None if the slots are not known in time."""
        if not self._slots:  # one request for all callers
            if self._slots_request is None or self._slots_request.done():
                self._slots_request = asyncio.create_task(
                    self._load_slots(_time_in(self._timeout_s))
                )
            if not await _ends_by(self._slots_request, due_at):
                return None
        slots = self._slots or [None] * _NUM_SLOTS
        return [slots[key_slot(command.key)] for command in commands]

    async def _send_some(
        self,
        commands: Sequence[Command],
        left: Sequence[tuple[int, Endpoint, bool]],
        replies: list[Any],
        due_at: float,
    ) -> None:
        """Send the commands of `left`: (index, endpoint, whether ASKING goes first)."""
        by_endpoint: dict[Endpoint, list[tuple[int, bool]]] = {}
        for index, endpoint, is_asking in left:
            by_endpoint.setdefault(endpoint, []).append((index, is_asking))

        async def send(endpoint: Endpoint, some: list[tuple[int, bool]]) -> None:
            pipeline: list[Arguments] = []
            positions = []
            for index, is_asking in some:
                pipeline += [("ASKING",)] if is_asking else []
                positions.append(len(pipeline))
                pipeline.append(commands[index].arguments)
            received = await self._node(endpoint).send(pipeline, due_at)
            for (index, _), position in zip(some, positions, strict=True):
                replies[index] = received[position]

        await asyncio.gather(*(send(endpoint, some) for endpoint, some in by_endpoint.items()))

    async def _load_slots(self, due_at: float) -> None:
        """Query the slots from all known servers; keep the old ones if none replies."""

        async def slots_by(endpoint: Endpoint) -> list[Endpoint | None] | None:
            [ranges] = await self._node(endpoint).send([("CLUSTER", "SLOTS")], due_at)
            if not isinstance(ranges, list) or not ranges:
                return None
            slots: list[Endpoint | None] = [None] * _NUM_SLOTS
            for first, last, (host, port, *_), *_ in ranges:
                owner = (host.decode() if host else endpoint[0], int(port))
                slots[first : last + 1] = [owner] * (last + 1 - first)
            return slots

        slots = await _first([slots_by(endpoint) for endpoint in {*self._nodes, *self._seeds}])
        if slots is not None:
            self._slots = slots
            await self._close_all_but({*slots})

    async def _close_all_but(self, endpoints: set[Endpoint | None]) -> None:
        for endpoint in [endpoint for endpoint in self._nodes if endpoint not in endpoints]:
            await self._nodes.pop(endpoint).close()

    def _node(self, endpoint: Endpoint) -> Node:
        node = self._nodes.get(endpoint)
        if node is None:
            node = self._nodes[endpoint] = self._make(endpoint)
        return node


def _time_in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def _ends_by(task: "asyncio.Task[None]", due_at: float) -> bool:
    """Whether the task ends in time; it continues for other callers."""
    await asyncio.wait({task}, timeout=due_at - asyncio.get_running_loop().time())
    return task.done()


async def _first(queries: "list[Coroutine[Any, Any, T | None]]") -> T | None:
    """The first result that is not None; the other queries are cancelled."""
    tasks = [asyncio.create_task(query) for query in queries]
    try:
        for completed in asyncio.as_completed(tasks):
            if (result := await completed) is not None:
                return result
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
