"""The requests of one session keep their order; memory is bounded and forgets what ended."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.dispatch.request_task import RequestTask
from service.engine.dispatch.session_queues import SessionQueues
from service.engine.limits import EngineLimits
from service.engine.session.requests import DeleteRequest
from service.errors import QueueFullError, SessionClosedError, SessionNotFoundError
from service.stores.memory import MemoryStore
from service.stores.record.record import Key
from tests.engine.support import (
    A,
    create_load,
    create_mood,
    rows,
    running_engine,
    step_rows,
    step_text,
)
from tests.stores.support import after, record_named

MAX_WAITING = 1024


def turn_for(queues, name, future=None):
    return RequestTask(queues.queue_of(Key("t", name)), DeleteRequest(), future, 0.0)


def join(queues, name):
    task = turn_for(queues, name)
    queues.join(task)
    return task


def visit(queues, name):
    """One request of a session, from its coming to its end."""
    task = join(queues, name)
    queues.remember(task.queue, record_named(name))
    assert queues.next(task.queue) is None


def test_turns_of_a_lane_keep_the_order_in_which_they_came():
    queues = SessionQueues(8)
    tasks = [turn_for(queues, "a") for _ in range(5)]
    assert [queues.join(task) for task in tasks] == [True, False, False, False, False]
    queue = tasks[0].queue
    assert queue.head is tasks[0]
    assert all(queues.next(queue) is task for task in tasks[1:])
    assert queues.next(queue) is None
    assert queue.head is None


def test_a_session_has_a_bounded_number_of_requests_waiting():
    queues = SessionQueues(8)
    tasks = [join(queues, "a") for _ in range(MAX_WAITING)]
    with pytest.raises(QueueFullError, match="1024 requests waiting"):
        join(queues, "a")
    assert queues.tasks() == tasks
    assert join(queues, "b").queue is not tasks[0].queue


def test_a_busy_lane_is_never_dropped():
    queues = SessionQueues(1)
    visit(queues, "busy")
    task = join(queues, "busy")
    for _ in range(3):
        visit(queues, "idle")
        visit(queues, "other")
    assert queues.cached(Key("t", "busy")) is not None
    assert join(queues, "busy").queue is task.queue


@pytest.mark.parametrize("max_cached", [0, 1, 2, 3])
def test_lanes_that_are_all_busy_are_all_kept(max_cached):
    queues = SessionQueues(max_cached)
    busy = [join(queues, name) for name in "abcde"]
    queues.remember(busy[0].queue, record_named("a"))
    behind = [join(queues, name) for name in "abcde"]
    assert len(queues) == 5
    assert [task.queue for task in behind] == [task.queue for task in busy]
    for task in [*busy, *behind]:
        queues.next(task.queue)
    assert len(queues) <= max_cached


def test_without_a_cache_nothing_is_remembered():
    queues = SessionQueues(0)
    visit(queues, "a")
    assert (len(queues), queues.state_bytes) == (0, 0)


def test_a_session_in_use_is_hardly_ever_dropped_and_those_that_are_not_are():
    """Not never: where all were used for a round, somebody must leave."""
    queues, num_found = SessionQueues(10), 0
    for newcomer in range(200):
        num_found += queues.cached(Key("t", "in use")) is not None
        visit(queues, "in use")
        visit(queues, str(newcomer))
    assert num_found >= 190
    cached = {place for place in range(200) if queues.cached(Key("t", str(place)))}
    assert 5 <= len(cached) <= 10
    assert min(cached) >= 180


def test_a_cache_stays_bounded_while_all_that_it_holds_is_used():
    """The sessions that are stepped may be more than it was made for."""
    queues = SessionQueues(10)
    for newcomer in range(100):
        visit(queues, str(newcomer))
        for name in range(newcomer):
            if queues.cached(Key("t", str(name))):
                visit(queues, str(name))
    assert len(queues) <= 10


names = st.sampled_from("abcde")
actions = st.lists(
    st.tuples(st.sampled_from(["join", "next", "step", "forget", "close"]), names),
    min_size=30,
    max_size=120,
)


@given(st.integers(0, 4), actions)
def test_lanes_do_what_a_simple_model_does(max_cached, actions):
    """Whatever is asked of them: order, size, and the bytes that they say they hold."""
    queues, busy = SessionQueues(max_cached), {}
    for action, name in actions:
        key = Key("t", name)
        if action == "join":
            task = turn_for(queues, name)
            assert queues.join(task) == (name not in busy)
            busy.setdefault(name, []).append(task)
        elif name in busy:
            task = busy[name].pop(0)
            queue = task.queue
            assert queue is queues.queue_of(key)
            assert queue.head is task
            end(queues, queue, action)
            following = busy[name][0] if busy[name] else None
            assert queues.next(queue) is following
            if following is None:
                del busy[name]
        assert len(queues) <= max_cached + len(busy)
        waiting = [task for tasks in busy.values() for task in tasks]
        assert sorted(map(id, queues.tasks())) == sorted(map(id, waiting))
        cached = [queues.cached(Key("t", each)) for each in "abcde"]
        assert queues.state_bytes == sum(len(record.data) for record in cached if record)


def end(queues, queue, action):
    """What a turn that ended made of its session queue's record."""
    record = queue.record
    if action == "next":
        queues.remember(queue, record_named(queue.key.name))
    elif action == "step" and record:
        longer = after(record, state=bytes(record.step % 7))
        queues.stepped(queue, longer, record.step + 1)
        assert (queue.record, queue.step) == (longer, record.step + 1)
    elif action == "forget":
        queues.remember(queue, None)
    elif action == "close" and record:
        queues.remember(queue, after(record, closed="deleted"))
        assert queue.record is None


async def test_nothing_is_remembered_of_a_session_that_ended():
    async with running_engine() as engine:
        await engine.submit(A, create_mood())
        assert len(engine._queues) == 1
        await engine.submit(A, step_text("a waste", 0, final=True))
        assert len(engine._queues) == 0
        assert (await engine.submit(A, step_text("a waste", 0, final=True))).is_replay
        with pytest.raises(SessionClosedError):
            await engine.submit(A, step_text("more", 1))
        assert len(engine._queues) == 0
        await engine.submit(A, create_mood())
        await engine.submit(A, DeleteRequest())
        assert len(engine._queues) == 0
        assert engine._queues.state_bytes == 0


async def test_nothing_is_remembered_of_a_session_that_is_not_there():
    async with running_engine(MemoryStore()) as engine:
        with pytest.raises(SessionNotFoundError):
            await engine.submit(A, step_rows(rows(1)))
        assert len(engine._queues) == 0


async def test_requests_of_one_session_are_answered_in_the_order_in_which_they_came():
    async with running_engine() as engine:
        await engine.submit(A, create_mood())
        chunks = ("a ", "won", "der", "ful ", "film")
        replies = await asyncio.gather(
            *(engine.submit(A, step_text(chunk, step)) for step, chunk in enumerate(chunks))
        )
        assert [reply.step for reply in replies] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("cache_sessions", [0, 1, 2])
async def test_sessions_are_served_side_by_side_with_hardly_a_cache(cache_sessions):
    async with running_engine(limits=EngineLimits(cache_sessions=cache_sessions)) as engine:
        keys = [Key("t", str(place)) for place in range(5)]
        asked = [engine.submit(key, create_load()) for key in keys]
        asked += [engine.submit(key, step_rows(rows(1), step)) for step in (0, 1) for key in keys]
        replies = await asyncio.wait_for(asyncio.gather(*asked), 5)
        assert [reply.step for reply in replies] == [0] * 5 + [1] * 5 + [2] * 5
        assert engine.failure is None
        assert len(engine._queues) <= cache_sessions
