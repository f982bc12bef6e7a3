"""Which server a command goes to: the only one, the one that the sentinels name, or its slot's.

Rule 1: commands that are sent together go in one round trip to each server that they concern, and
        each gets a reply or an error of its own.
Rule 2: a command is sent again only where the server said that it did not carry it out: after
        MOVED and ASK. Anything else that is not known stays so (`LostError`).
Rule 3: whatever the way takes, asking for it included, a call ends within the time of one call.
Rule 4: after any failure the way is asked for anew, so that a fail-over is followed.

redis-py's own clients for clusters and sentinels repeat writes by themselves, which cannot be
turned off without losing redirections: only its connections are used.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ReadOnlyError

from service.stores.redis.node import Command as Words
from service.stores.redis.node import LostError, Node, NotSentError
from service.stores.redis.url import Place, RedisAddress

T = TypeVar("T")

_NUM_SLOTS: Final = 16384
_MAX_REDIRECTIONS: Final = 4
_GONE: Final = (NotSentError, LostError, ReadOnlyError, ClusterDownError)
"""Signs that another server may have taken over."""


class Command(NamedTuple):
    """A command and the key that says where it belongs."""

    key: bytes
    words: Words


class Topology(Protocol):
    """The servers of a store."""

    async def send(self, commands: Sequence[Command], due_at: float | None = None) -> list[Any]:
        """Replies in order; errors stand in their place. `due_at`: see `Node.send`."""

    async def ask_each(self, words: Words) -> list[Any]:
        """The reply of every server that is written to."""

    async def close(self) -> None:
        """Close every connection."""


def topology_of(address: RedisAddress, timeout_s: float) -> Topology:
    """The servers at an address; nothing is connected yet."""

    def make(place: Place) -> Node:
        return Node(place, address, timeout_s)

    if address.topology == "cluster":
        return Cluster(address.places, make, timeout_s)
    if address.topology == "sentinel":
        plain = RedisAddress(
            topology="single",
            places=address.places,
            uses_tls=address.uses_tls,
            ca_file=address.ca_file,
        )
        sentinels = [Node(place, plain, timeout_s) for place in address.places]
        return Sentinels(sentinels, address.service, make, timeout_s)
    return Single(make(address.places[0]))


class Single:
    """One server."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def send(self, commands: Sequence[Command], due_at: float | None = None) -> list[Any]:
        return await self._node.send([command.words for command in commands], due_at)

    async def ask_each(self, words: Words) -> list[Any]:
        return await self._node.send([words])

    async def close(self) -> None:
        await self._node.close()


class Sentinels:
    """The server that sentinels call the primary of a service."""

    def __init__(
        self,
        sentinels: list[Node],
        service: str,
        make: Callable[[Place], Node],
        timeout_s: float,
    ) -> None:
        self._timeout_s = timeout_s
        self._sentinels = sentinels
        self._service = service
        self._make = make
        self._node: Node | None = None
        self._finding: asyncio.Task[None] | None = None

    async def send(self, commands: Sequence[Command], due_at: float | None = None) -> list[Any]:
        return await self._send([command.words for command in commands], due_at)

    async def ask_each(self, words: Words) -> list[Any]:
        return await self._send([words], None)

    async def close(self) -> None:
        for node in [*self._sentinels, *([self._node] if self._node else [])]:
            await node.close()

    async def _send(self, commands: Sequence[Words], due_at: float | None) -> list[Any]:
        due_at = due_at or _time_in(self._timeout_s)
        if self._node is None:  # asked for once, however many wait
            if self._finding is None or self._finding.done():
                self._finding = asyncio.create_task(self._find(_time_in(self._timeout_s)))
            if not await _ends_by(self._finding, due_at):
                error = TimeoutError(f"no primary of {self._service!r} was found in time")
                return [NotSentError(error)] * len(commands)
        node = self._node
        if node is None:
            nobody = NotSentError(f"no sentinel knows a primary of {self._service!r}")
            return [nobody] * len(commands)
        replies = await node.send(commands, due_at)
        if self._node is node and any(isinstance(each, _GONE) for each in replies):
            self._node = None
            await node.close()
        return replies

    async def _find(self, due_at: float) -> None:
        words = "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service

        async def ask(sentinel: Node) -> Place | None:
            [place] = await sentinel.send([words], due_at)
            if not isinstance(place, list):
                return None
            node = self._make((place[0].decode(), int(place[1])))
            try:
                [role] = await node.send([("ROLE",)], due_at)
            finally:
                await node.close()
            # A sentinel may be the last to hear of a fail-over.
            is_primary = isinstance(role, list) and role[0] == b"master"
            return node.place if is_primary else None

        place = await _first([ask(sentinel) for sentinel in self._sentinels])
        self._node = self._make(place) if place else None


class Cluster:
    """Servers that share the slots among them."""

    def __init__(
        self, seeds: Sequence[Place], make: Callable[[Place], Node], timeout_s: float
    ) -> None:
        self._timeout_s = timeout_s
        self._seeds = seeds
        self._make = make
        self._nodes: dict[Place, Node] = {}
        self._slots: list[Place | None] = []
        self._learning: asyncio.Task[None] | None = None

    async def send(self, commands: Sequence[Command], due_at: float | None = None) -> list[Any]:
        due_at = due_at or _time_in(self._timeout_s)
        places = await self._places(commands, due_at)
        if places is None:
            error = TimeoutError("no server of the cluster said in time who has which slot")
            return [NotSentError(error)] * len(commands)
        replies: list[Any] = [NotSentError("no server of the cluster has its slot")] * len(commands)
        left = [(index, place, False) for index, place in enumerate(places) if place]
        for _ in range(_MAX_REDIRECTIONS):
            await self._send_some(commands, left, replies, due_at)
            left = []
            for index, reply in enumerate(replies):
                if isinstance(reply, AskError):  # MovedError is one as well
                    # A server that does not know its own address leaves it out.
                    asked = places[index] or self._seeds[0]
                    place = (reply.host or asked[0], reply.port)
                    is_moved = isinstance(reply, MovedError)
                    left.append((index, place, not is_moved))
                    if is_moved and self._slots:  # they may have been forgotten meanwhile
                        self._slots[reply.slot_id] = place
            if not left:
                break
        if any(isinstance(each, _GONE) for each in replies):
            self._slots = []
        return replies

    async def ask_each(self, words: Words) -> list[Any]:
        due_at = _time_in(self._timeout_s)
        await self._places([], due_at)
        primaries = dict.fromkeys(place for place in self._slots if place)
        if not primaries:
            return [NotSentError("no server of the cluster was reached")]
        replies = await asyncio.gather(
            *(self._node(place).send([words], due_at) for place in primaries)
        )
        return [each for [each] in replies]

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.close()

    async def _places(
        self, commands: Sequence[Command], due_at: float
    ) -> list[Place | None] | None:
        """Where each belongs; None where that is not known in time."""
        if not self._slots:  # asked for once, however many wait
            if self._learning is None or self._learning.done():
                self._learning = asyncio.create_task(self._learn(_time_in(self._timeout_s)))
            if not await _ends_by(self._learning, due_at):
                return None
        slots = self._slots or [None] * _NUM_SLOTS
        return [slots[key_slot(command.key)] for command in commands]

    async def _send_some(
        self,
        commands: Sequence[Command],
        left: Sequence[tuple[int, Place, bool]],
        replies: list[Any],
        due_at: float,
    ) -> None:
        """Send those that are left: (index, where to, whether to say ASKING before)."""
        by_place: dict[Place, list[tuple[int, bool]]] = {}
        for index, place, is_asking in left:
            by_place.setdefault(place, []).append((index, is_asking))

        async def send(place: Place, some: list[tuple[int, bool]]) -> None:
            words: list[Words] = []
            ends = []
            for index, is_asking in some:
                words += [("ASKING",)] if is_asking else []
                ends.append(len(words))
                words.append(commands[index].words)
            answers = await self._node(place).send(words, due_at)
            for (index, _), end in zip(some, ends, strict=True):
                replies[index] = answers[end]

        await asyncio.gather(*(send(place, some) for place, some in by_place.items()))

    async def _learn(self, due_at: float) -> None:
        """Ask for the slots of every server; nothing changes where nobody answers."""

        async def ask(place: Place) -> list[Place | None] | None:
            [ranges] = await self._node(place).send([("CLUSTER", "SLOTS")], due_at)
            if not isinstance(ranges, list) or not ranges:
                return None
            slots: list[Place | None] = [None] * _NUM_SLOTS
            for first, last, (host, port, *_), *_ in ranges:
                owner = (host.decode() if host else place[0], int(port))
                slots[first : last + 1] = [owner] * (last + 1 - first)
            return slots

        slots = await _first([ask(place) for place in {*self._nodes, *self._seeds}])
        if slots is not None:
            self._slots = slots
            await self._forget_all_but({*slots})

    async def _forget_all_but(self, places: set[Place | None]) -> None:
        for place in [place for place in self._nodes if place not in places]:
            await self._nodes.pop(place).close()

    def _node(self, place: Place) -> Node:
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes[place] = self._make(place)
        return node


def _time_in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def _ends_by(task: "asyncio.Task[None]", due_at: float) -> bool:
    """Whether it does; others may wait for it longer."""
    await asyncio.wait({task}, timeout=due_at - asyncio.get_running_loop().time())
    return task.done()


async def _first(asked: "list[Coroutine[Any, Any, T | None]]") -> T | None:
    """The first successful reply; the servers that have not replied by then are not waited for."""
    tasks = [asyncio.create_task(each) for each in asked]
    try:
        for answered in asyncio.as_completed(tasks):
            if (answer := await answered) is not None:
                return answer
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
