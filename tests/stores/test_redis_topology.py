"""What becomes of commands that are sent while the servers of a cluster change."""

import asyncio

from redis.crc import key_slot
from redis.exceptions import MovedError

from service.stores.redis_node import LostError
from service.stores.redis_topology import Cluster, Command

ONE, TWO = ("one", 1), ("two", 2)
LOW, HIGH = (
    next(key for key in (b"%d" % n for n in range(99)) if (key_slot(key) < 8192) == is_low)
    for is_low in (True, False)
)


class TwoNodes:
    """Half of the slots each; ONE says MOVED to TWO once it is let, TWO loses what it is asked."""

    def __init__(self):
        self.may_answer = asyncio.Event()

    def __call__(self, place):
        return Node(self, place)


class Node:
    def __init__(self, nodes, place):
        self.nodes, self.place = nodes, place

    async def send(self, commands):
        if commands == [("CLUSTER", "SLOTS")]:
            return [[[0, 8191, [b"one", 1]], [8192, 16383, [b"two", 2]]]]
        if self.place == ONE:
            await self.nodes.may_answer.wait()
            return [MovedError(f"{key_slot(LOW)} two:2") for _ in commands]
        return [LostError("cut") if words == ("LOSE",) else b"answer" for words in commands]

    async def close(self):
        pass


async def test_a_command_that_is_moved_while_the_way_is_forgotten_follows_it():
    nodes = TwoNodes()
    cluster = Cluster([ONE], nodes)
    moved = asyncio.create_task(cluster.send([Command(LOW, ("GET",))]))
    [lost] = await cluster.send([Command(HIGH, ("LOSE",))])
    assert isinstance(lost, LostError)
    nodes.may_answer.set()
    assert await moved == [b"answer"]
    await cluster.close()
