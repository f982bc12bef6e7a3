"""The requests of one session keep their order; memory is bounded and forgets what ended."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.dispatch.request_task import Turn
from service.engine.dispatch.session_queues import Lanes
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


def turn_for(lanes, name, future=None):
    return Turn(lanes.lane_of(Key("t", name)), DeleteRequest(), future, 0.0)


def join(lanes, name):
    turn = turn_for(lanes, name)
    lanes.join(turn)
    return turn


def visit(lanes, name):
    """One request of a session, from its coming to its end."""
    turn = join(lanes, name)
    lanes.remember(turn.lane, record_named(name))
    assert lanes.next(turn.lane) is None


def test_turns_of_a_lane_keep_the_order_in_which_they_came():
    lanes = Lanes(8)
    turns = [turn_for(lanes, "a") for _ in range(5)]
    assert [lanes.join(turn) for turn in turns] == [True, False, False, False, False]
    lane = turns[0].lane
    assert lane.head is turns[0]
    assert all(lanes.next(lane) is turn for turn in turns[1:])
    assert lanes.next(lane) is None
    assert lane.head is None


def test_a_session_has_a_bounded_number_of_requests_waiting():
    lanes = Lanes(8)
    turns = [join(lanes, "a") for _ in range(MAX_WAITING)]
    with pytest.raises(QueueFullError, match="1024 requests waiting"):
        join(lanes, "a")
    assert lanes.turns() == turns
    assert join(lanes, "b").lane is not turns[0].lane


def test_a_busy_lane_is_never_dropped():
    lanes = Lanes(1)
    visit(lanes, "busy")
    turn = join(lanes, "busy")
    for _ in range(3):
        visit(lanes, "idle")
        visit(lanes, "other")
    assert lanes.cached(Key("t", "busy")) is not None
    assert join(lanes, "busy").lane is turn.lane


@pytest.mark.parametrize("max_cached", [0, 1, 2, 3])
def test_lanes_that_are_all_busy_are_all_kept(max_cached):
    lanes = Lanes(max_cached)
    busy = [join(lanes, name) for name in "abcde"]
    lanes.remember(busy[0].lane, record_named("a"))
    behind = [join(lanes, name) for name in "abcde"]
    assert len(lanes) == 5
    assert [turn.lane for turn in behind] == [turn.lane for turn in busy]
    for turn in [*busy, *behind]:
        lanes.next(turn.lane)
    assert len(lanes) <= max_cached


def test_without_a_cache_nothing_is_remembered():
    lanes = Lanes(0)
    visit(lanes, "a")
    assert (len(lanes), lanes.state_bytes) == (0, 0)


def test_a_session_in_use_is_hardly_ever_dropped_and_those_that_are_not_are():
    """Not never: where all were used for a round, somebody must leave."""
    lanes, num_found = Lanes(10), 0
    for newcomer in range(200):
        num_found += lanes.cached(Key("t", "in use")) is not None
        visit(lanes, "in use")
        visit(lanes, str(newcomer))
    assert num_found >= 190
    cached = {place for place in range(200) if lanes.cached(Key("t", str(place)))}
    assert 5 <= len(cached) <= 10
    assert min(cached) >= 180


def test_a_cache_stays_bounded_while_all_that_it_holds_is_used():
    """The sessions that are stepped may be more than it was made for."""
    lanes = Lanes(10)
    for newcomer in range(100):
        visit(lanes, str(newcomer))
        for name in range(newcomer):
            if lanes.cached(Key("t", str(name))):
                visit(lanes, str(name))
    assert len(lanes) <= 10


names = st.sampled_from("abcde")
actions = st.lists(
    st.tuples(st.sampled_from(["join", "next", "step", "forget", "close"]), names),
    min_size=30,
    max_size=120,
)


@given(st.integers(0, 4), actions)
def test_lanes_do_what_a_simple_model_does(max_cached, actions):
    """Whatever is asked of them: order, size, and the bytes that they say they hold."""
    lanes, busy = Lanes(max_cached), {}
    for action, name in actions:
        key = Key("t", name)
        if action == "join":
            turn = turn_for(lanes, name)
            assert lanes.join(turn) == (name not in busy)
            busy.setdefault(name, []).append(turn)
        elif name in busy:
            turn = busy[name].pop(0)
            lane = turn.lane
            assert lane is lanes.lane_of(key)
            assert lane.head is turn
            end(lanes, lane, action)
            following = busy[name][0] if busy[name] else None
            assert lanes.next(lane) is following
            if following is None:
                del busy[name]
        assert len(lanes) <= max_cached + len(busy)
        waiting = [turn for turns in busy.values() for turn in turns]
        assert sorted(map(id, lanes.turns())) == sorted(map(id, waiting))
        cached = [lanes.cached(Key("t", each)) for each in "abcde"]
        assert lanes.state_bytes == sum(len(record.data) for record in cached if record)


def end(lanes, lane, action):
    """What a turn that ended made of its lane's record."""
    record = lane.record
    if action == "next":
        lanes.remember(lane, record_named(lane.key.name))
    elif action == "step" and record:
        longer = after(record, state=bytes(record.step % 7))
        lanes.stepped(lane, longer, record.step + 1)
        assert (lane.record, lane.step) == (longer, record.step + 1)
    elif action == "forget":
        lanes.remember(lane, None)
    elif action == "close" and record:
        lanes.remember(lane, after(record, closed="deleted"))
        assert lane.record is None


async def test_nothing_is_remembered_of_a_session_that_ended():
    async with running_engine() as engine:
        await engine.submit(A, create_mood())
        assert len(engine._lanes) == 1
        await engine.submit(A, step_text("a waste", 0, final=True))
        assert len(engine._lanes) == 0
        assert (await engine.submit(A, step_text("a waste", 0, final=True))).is_replay
        with pytest.raises(SessionClosedError):
            await engine.submit(A, step_text("more", 1))
        assert len(engine._lanes) == 0
        await engine.submit(A, create_mood())
        await engine.submit(A, DeleteRequest())
        assert len(engine._lanes) == 0
        assert engine._lanes.state_bytes == 0


async def test_nothing_is_remembered_of_a_session_that_is_not_there():
    async with running_engine(MemoryStore()) as engine:
        with pytest.raises(SessionNotFoundError):
            await engine.submit(A, step_rows(rows(1)))
        assert len(engine._lanes) == 0


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
        assert len(engine._lanes) <= cache_sessions
