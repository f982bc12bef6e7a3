"""The requests of one session keep their order; memory is bounded and forgets what ended."""

import asyncio

import pytest

from service.engine.lanes import Lanes
from service.engine.requests import DeleteRequest
from service.errors import QueueFullError, SessionClosedError, SessionNotFoundError
from service.stores.memory import MemoryStore
from service.stores.record import Key
from tests.engine.support import A, create_mood, rows, running_engine, step_rows, step_text
from tests.stores.test_stores import record_named

MAX_WAITING = 1024


def join(lanes, name):
    future = asyncio.get_running_loop().create_future()
    return lanes.join(Key("t", name), DeleteRequest(), future, 0.0)


def visit(lanes, name):
    """One request of a session, from its coming to its end."""
    lane = join(lanes, name).lane
    lanes.remember(lane, record_named(name))
    lane.turns.popleft()
    lanes.rest(lane)


async def test_turns_of_a_lane_keep_the_order_in_which_they_came():
    lanes = Lanes(8)
    turns = [join(lanes, "a") for _ in range(5)]
    assert all(turn is kept for turn, kept in zip(turns, turns[0].lane.turns, strict=True))


async def test_a_session_has_a_bounded_number_of_requests_waiting():
    lanes = Lanes(8)
    turns = [join(lanes, "a") for _ in range(MAX_WAITING)]
    with pytest.raises(QueueFullError, match="1024 requests waiting"):
        join(lanes, "a")
    assert len(turns[0].lane.turns) == MAX_WAITING
    assert join(lanes, "b").lane is not turns[0].lane


async def test_a_busy_lane_is_never_dropped():
    lanes = Lanes(1)
    visit(lanes, "busy")
    turn = join(lanes, "busy")
    visit(lanes, "idle")
    assert lanes.cached(Key("t", "busy")) is not None
    assert lanes.cached(Key("t", "idle")) is None
    assert join(lanes, "busy").lane is turn.lane


async def test_lanes_that_are_all_busy_are_all_kept():
    lanes = Lanes(0)
    busy = [join(lanes, name) for name in "ab"]
    lanes.remember(busy[0].lane, record_named("a"))
    busy[0].lane.turns.append(busy[0])
    lanes.rest(busy[0].lane)
    assert len(lanes) == 2


async def test_what_rested_longest_leaves_first():
    lanes = Lanes(2)
    for name in ("a", "b", "a", "c"):
        visit(lanes, name)
    assert lanes.cached(Key("t", "a")) is not None
    assert lanes.cached(Key("t", "b")) is None
    assert lanes.state_bytes == 2 * len(record_named().state)


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
