"""Single steps of many clients travel together, and each is still its client's own."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.engine.graph.batch_planner import BatchLimits
from service.engine.limits import EngineLimits
from service.engine.session.requests import Observations, StepRequest
from service.errors import DeadlineError, InvalidInputError, QueueFullError, SessionClosedError
from service.stores.record.record import Key
from tests.engine.support import (
    ScriptedStore,
    Witness,
    create_load,
    held_graphs,
    outputs_of,
    rows,
    running_engine,
    step_rows,
)

KEYS = [Key("t", str(place)) for place in range(6)]
NEXT = [step_rows(rows(1, seed=10 + place), 1) for place in range(6)]


@asynccontextmanager
async def warm_sessions(monkeypatch, store=None, **limits):
    """Six sessions at step 1, cached, and graphs that can be held."""
    witness = Witness()
    async with (
        running_engine(store, EngineLimits(**limits), observer=witness) as engine,
        held_graphs(monkeypatch) as held,
    ):
        for key in KEYS:
            await engine.submit(key, create_load())
            await engine.submit(key, step_rows(rows(1), 0))
        witness.batch_rows.clear()
        yield engine, held, witness


async def running_one(engine, held):
    """The graph is held by a step of the first session."""
    held.hold()
    first = engine.submit(KEYS[0], NEXT[0])
    await held.has_entered()
    return first


def expected_of(place):
    """What the step of `NEXT` answers where nobody else steps."""

    async def alone():
        async with running_engine() as engine:
            await engine.submit(KEYS[place], create_load())
            await engine.submit(KEYS[place], step_rows(rows(1), 0))
            return outputs_of(await engine.submit(KEYS[place], NEXT[place]))["mean"]

    return alone()


async def test_what_waits_for_the_graph_is_one_batch_and_each_client_gets_its_own(monkeypatch):
    async with warm_sessions(monkeypatch) as (engine, held, witness):
        first = await running_one(engine, held)
        waiting = [engine.submit(KEYS[place], NEXT[place]) for place in range(1, 6)]
        await asyncio.sleep(0)
        held.let_go()
        replies = [await each for each in (first, *waiting)]
        assert witness.batch_rows == [1, 5]
        for place, reply in enumerate(replies):
            assert (reply.record.key, reply.step) == (KEYS[place], 2)
            found = outputs_of(reply)["mean"]
            np.testing.assert_allclose(found, await expected_of(place), atol=1e-5)


async def test_a_client_that_left_before_its_batch_is_dropped_and_the_others_go_on(monkeypatch):
    async with warm_sessions(monkeypatch) as (engine, held, witness):
        first = await running_one(engine, held)
        waiting = [engine.submit(KEYS[place], NEXT[place]) for place in range(1, 6)]
        behind = engine.submit(KEYS[3], NEXT[3])
        await asyncio.sleep(0)
        for place in (1, 3, 5):
            waiting[place - 1].cancel()
        held.let_go()
        assert (await first).step == (await behind).step == 2
        for place in (2, 4):
            reply = await waiting[place - 1]
            found = outputs_of(reply)["mean"]
            np.testing.assert_allclose(found, await expected_of(place), atol=1e-5)
        assert [(await engine.read(key)).step for key in KEYS] == [2, 1, 2, 2, 2, 1]
        assert sum(witness.batch_rows) == 4


async def test_a_step_whose_time_is_up_before_its_batch_is_not_applied(monkeypatch):
    async with warm_sessions(monkeypatch, request_timeout_s=1.0) as (engine, held, _):
        first = await running_one(engine, held)
        late = engine.submit(KEYS[1], NEXT[1])
        for waiting in (first, late):
            with pytest.raises(DeadlineError):
                await waiting
        held.let_go()
        await held.has_left()
        await engine.submit(KEYS[2], NEXT[2])
        # The first had begun, so it was committed; the other had not.
        assert [(await engine.read(key)).step for key in KEYS[:3]] == [2, 1, 2]


async def test_a_rival_is_noticed_row_by_row(monkeypatch):
    store = ScriptedStore()
    async with warm_sessions(monkeypatch, store) as (engine, _, _), running_engine(store) as rival:
        store.before_commit = lambda _: rival.submit(KEYS[1], NEXT[1])
        replies = await asyncio.gather(
            *(engine.submit(KEYS[place], NEXT[place]) for place in range(3))
        )
        assert [reply.step for reply in replies] == [2, 2, 2]
        assert [reply.is_replay for reply in replies] == [False, True, False]


async def test_a_refused_step_leaves_its_session_as_it_was(monkeypatch):
    async with warm_sessions(monkeypatch, max_waiting_jobs=2) as (engine, held, _):
        first = await running_one(engine, held)
        waiting = [engine.submit(KEYS[place], NEXT[place]) for place in range(1, 4)]
        with pytest.raises(QueueFullError, match="2 pieces of work with 3 steps"):
            await waiting[2]
        held.let_go()
        for each in (first, *waiting[:2]):
            assert (await each).step == 2
        assert (await engine.submit(KEYS[3], NEXT[3])).step == 2


async def test_a_row_that_does_not_fit_is_refused_alone(monkeypatch):
    async with warm_sessions(monkeypatch) as (engine, held, _):
        first = await running_one(engine, held)
        wide = engine.submit(KEYS[1], step_rows(np.zeros((1, 3), np.float32), 1))
        fits = engine.submit(KEYS[2], NEXT[2])
        with pytest.raises(InvalidInputError, match="got 3"):
            await wide
        held.let_go()
        assert (await first).step == (await fits).step == 2
        assert (await engine.submit(KEYS[1], NEXT[1])).step == 2


async def test_a_batch_has_no_more_rows_than_it_may(monkeypatch):
    limits = BatchLimits(max_rows=2, max_slice_steps=4, max_cells=8)
    async with warm_sessions(monkeypatch, batch=limits) as (engine, held, witness):
        first = await running_one(engine, held)
        waiting = [engine.submit(KEYS[place], NEXT[place]) for place in range(1, 6)]
        held.let_go()
        for each in (first, *waiting):
            await each
        assert witness.batch_rows == [1, 2, 2, 1]


async def test_a_failing_graph_answers_all_who_wait_for_the_batch(monkeypatch):
    async with warm_sessions(monkeypatch) as (engine, held, _):
        first = await running_one(engine, held)
        waiting = [engine.submit(KEYS[place], NEXT[place]) for place in range(1, 6)]
        await asyncio.sleep(0)
        monkeypatch.setattr(held, "_run", _fail)
        held.let_go()
        results = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert {type(result).__name__ for result in results} == {"ModelFailedError"}
        assert [(await engine.read(key)).step for key in KEYS] == [1] * 6


def _fail(batch):
    batch.error = RuntimeError("broken")
    batch.ort_s = 0.0


async def test_final_steps_in_one_batch_end_their_sessions():
    keys = [Key("t", f"ends-{place}") for place in range(12)]
    async with running_engine() as engine:
        for key in keys:
            await engine.submit(key, create_load())
            await engine.submit(key, step_rows(rows(1), 0))
        last = [StepRequest(Observations(rows=rows(1), final=True), 1) for _ in keys]
        replies = await asyncio.gather(*map(engine.submit, keys, last))
        assert [reply.record.closed for reply in replies] == ["final"] * len(keys)
        with pytest.raises(SessionClosedError):
            await engine.submit(keys[0], step_rows(rows(1), 2))
