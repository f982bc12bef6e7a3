"""The outcome of commands that are sent while the servers of a cluster change."""

import asyncio

import pytest
from redis.crc import key_slot
from redis.exceptions import MovedError

from service.stores.redis.node import LostError, Node, NotSentError, has_timed_out
from service.stores.redis.topology import Cluster, Command, Sentinels
from service.stores.redis.url import read_redis_url

ONE, TWO = ("one", 1), ("two", 2)
LOW, HIGH = (
    next(key for key in (b"%d" % n for n in range(99)) if (key_slot(key) < 8192) == is_low)
    for is_low in (True, False)
)


class TwoNodes:
    """Half of the slots each; ONE replies MOVED to TWO when allowed, TWO loses replies to LOSE."""

    def __init__(self):
        self.may_answer = asyncio.Event()

    def __call__(self, endpoint):
        return FakeNode(self, endpoint)


class FakeNode:
    def __init__(self, nodes, endpoint):
        self.nodes, self.endpoint = nodes, endpoint

    async def send(self, commands, due_at=None):
        if commands == [("CLUSTER", "SLOTS")]:
            return [[[0, 8191, [b"one", 1]], [8192, 16383, [b"two", 2]]]]
        if self.endpoint == ONE:
            await self.nodes.may_answer.wait()
            return [MovedError(f"{key_slot(LOW)} two:2") for _ in commands]
        return [LostError("cut") if words == ("LOSE",) else b"answer" for words in commands]

    async def close(self):
        pass


async def test_a_command_follows_moved_while_the_slots_are_discarded():
    nodes = TwoNodes()
    cluster = Cluster([ONE], nodes, 60.0)
    moved = asyncio.create_task(cluster.send([Command(LOW, ("GET",))]))
    [lost] = await cluster.send([Command(HIGH, ("LOSE",))])
    assert isinstance(lost, LostError)
    nodes.may_answer.set()
    assert await moved == [b"answer"]
    await cluster.close()


class SlowNode:
    """Records deadlines; `answers` has replies by the name of the command, others are lost."""

    def __init__(self, endpoint, answers):
        self.endpoint = endpoint
        self.answers = answers
        self.due = []

    async def send(self, commands, due_at=None):
        self.due.append(due_at)
        return [self.answers.get(words[0], LostError(TimeoutError())) for words in commands]

    async def close(self):
        pass


@pytest.mark.parametrize("asked_by", [None, 5.0])
async def test_the_search_for_a_primary_and_the_call_share_one_deadline(asked_by):
    sentinel = SlowNode(ONE, {"SENTINEL": [b"two", b"2"]})
    primary = SlowNode(TWO, {"ROLE": [b"master"]})
    loop = asyncio.get_running_loop()
    sentinels = Sentinels([sentinel], "main", lambda _: primary, 100.0)
    before = loop.time()
    due_at = asked_by and before + asked_by
    await sentinels.send([Command(b"k", ("GET",))], due_at)
    [found_by] = sentinel.due
    role_by, answered_by = primary.due
    assert role_by == found_by
    assert before + 100 <= found_by <= loop.time() + 100
    assert answered_by == (due_at or pytest.approx(found_by, abs=1))


@pytest.mark.parametrize("topology", ["sentinel", "cluster"])
async def test_a_search_without_a_reply_ends_at_the_deadline_of_the_call(topology):
    class Silent(SlowNode):
        async def send(self, commands, due_at=None):
            await asyncio.Event().wait()

    silent = Silent(ONE, {})
    if topology == "sentinel":
        servers = Sentinels([silent], "main", lambda _: silent, 60.0)
    else:
        servers = Cluster([ONE], lambda _: silent, 60.0)
    over = asyncio.get_running_loop().time()
    for _ in range(2):
        [error] = await servers.send([Command(b"k", ("GET",))], over)
        assert isinstance(error, NotSentError)
        assert has_timed_out(error)
    looking = servers._search if topology == "sentinel" else servers._slots_request
    looking.cancel()
    await asyncio.wait({looking})


async def test_redirections_of_a_cluster_share_one_deadline():
    slots = [[0, 16383, [b"one", 1]]]
    one = SlowNode(ONE, {"CLUSTER": slots, "GET": MovedError(f"{key_slot(LOW)} two:2")})
    two = SlowNode(TWO, {"GET": b"answer"})
    cluster = Cluster([ONE], {ONE: one, TWO: two}.get, 100.0)
    assert await cluster.send([Command(LOW, ("GET",))]) == [b"answer"]
    _, asked_by = one.due
    assert two.due == [asked_by]


async def test_nothing_is_sent_after_the_deadline():
    """So that the command is known not to be carried out."""
    received, has_ended = [], asyncio.Event()

    async def serve(reader, writer):
        while data := await reader.read(100):
            received.append(data)
            writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()
        await writer.wait_closed()
        has_ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        address = read_redis_url(f"redis://127.0.0.1:{port}")
        node = Node(address.endpoints[0], address, 60.0)
        assert await node.send([("SET", "a", "b")]) == [b"OK"]
        num_received = len(received)
        [error] = await node.send([("SET", "a", "c")], asyncio.get_running_loop().time() - 1)
        assert isinstance(error, NotSentError)
        assert has_timed_out(error)
        assert len(received) == num_received
        await node.close()
        await has_ended.wait()
