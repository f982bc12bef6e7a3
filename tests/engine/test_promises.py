"""What a session promises when clients race or leave, or the store and the model fail."""

import asyncio

import numpy as np
import pytest

from service.engine.graph.batch_planner import BatchLimits
from service.engine.graph.runner import Batch
from service.engine.limits import EngineLimits
from service.engine.session.requests import DeleteRequest, Observations
from service.errors import (
    ContentionError,
    DigestMismatchError,
    DrainingError,
    InvalidInputError,
    ModelFailedError,
    QueueFullError,
    ReplayExpiredError,
    SessionClosedError,
    SessionExpiredError,
    SessionNotFoundError,
    StoreUnavailableError,
    VersionGoneError,
)
from service.stores.memory import MemoryStore
from service.stores.record.record import Key
from tests.engine.support import (
    A,
    ScriptedStore,
    create_load,
    create_mood,
    rows,
    running_engine,
    small_models,
    step_rows,
    step_text,
)


async def test_a_deleted_session_keeps_no_state_and_its_name_is_free():
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(3)))
        await engine.submit(A, DeleteRequest())
        tombstone = await engine.store.load(A)
        assert (tombstone.state, tombstone.closed) == (b"", "deleted")
        with pytest.raises(SessionClosedError):
            await engine.read(A)
        assert (await engine.submit(A, create_load())).step == 0


async def test_unknown_and_expired_sessions_are_told_apart():
    now = 1000.0
    async with running_engine(MemoryStore(lambda: now)) as engine:
        with pytest.raises(SessionNotFoundError):
            await engine.submit(A, step_rows(rows(1)))
        await engine.submit(A, create_load(ttl_s=10))
        now += 11
        for request in (step_rows(rows(1)), step_rows(rows(1), is_preview=True), DeleteRequest()):
            with pytest.raises(SessionExpiredError):
                await engine.submit(A, request)
        assert (await engine.submit(A, create_load(ttl_s=10))).step == 0


async def test_a_lost_race_is_decided_again_from_the_store():
    store = ScriptedStore()
    async with running_engine(store) as engine, running_engine(store) as rival:
        await engine.submit(A, create_load())
        await engine.submit(A, step_rows(rows(1), 0))

        async def rival_steps(_):
            await rival.submit(A, step_rows(rows(1, seed=9), 1))

        store.before_commit = rival_steps
        with pytest.raises(DigestMismatchError):
            await engine.submit(A, step_rows(rows(1), 1))
        store.before_commit = lambda _: rival.submit(A, step_rows(rows(1), 2))
        replay = await engine.submit(A, step_rows(rows(1), 2))
        assert replay.is_replay
        assert (await engine.read(A)).step == 3


async def test_a_stale_cache_never_answers():
    store = MemoryStore()
    async with running_engine(store) as engine, running_engine(store) as rival:
        await engine.submit(A, create_load())
        await engine.submit(A, step_rows(rows(1), 0))
        await rival.submit(A, DeleteRequest())
        await rival.submit(A, create_load(rows(6)))
        with pytest.raises(ReplayExpiredError) as caught:
            await engine.submit(A, step_rows(rows(1), 0))
        assert caught.value.members == {"expected_step": 6}
        assert (await engine.submit(A, step_rows(rows(1), 6))).step == 7


async def test_endless_rivals_end_in_a_clear_error():
    store = ScriptedStore()
    async with running_engine(store) as engine, running_engine(store) as rival:
        await engine.submit(A, create_load())

        async def rival_steps(scripted):
            await rival.submit(A, step_rows(rows(1)))
            scripted.before_commit = rival_steps

        store.before_commit = rival_steps
        with pytest.raises(ContentionError, match="other writers committed first"):
            await engine.submit(A, step_rows(rows(1)))
        store.before_commit = None


async def test_a_failed_commit_is_503_and_the_next_try_applies_once():
    store = ScriptedStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        store.fail_commits = 1
        with pytest.raises(StoreUnavailableError):
            await engine.submit(A, step_rows(rows(1), 0))
        loads = store.num_loads
        assert (await engine.submit(A, step_rows(rows(1), 0))).step == 1
        assert store.num_loads == loads + 1
        store.fail_loads = 1
        with pytest.raises(StoreUnavailableError):
            await engine.read(A)


async def test_a_cached_session_is_stepped_without_reading_the_store():
    store = ScriptedStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        loads = store.num_loads
        for step in range(5):
            await engine.submit(A, step_rows(rows(1), step))
        assert store.num_loads == loads


async def test_the_cache_is_bounded_and_spilled_sessions_come_back():
    async with running_engine(limits=EngineLimits(cache_sessions=3)) as engine:
        keys = [Key("t", str(place)) for place in range(10)]
        for key in keys:
            await engine.submit(key, create_load())
        assert len(engine._queues) <= 3
        for key in keys:
            assert (await engine.submit(key, step_rows(rows(1), 0))).step == 1
        assert len(engine._queues) <= 3
        records = [engine._queues.cached(key) for key in keys]
        assert engine._queues.state_bytes == sum(len(r.data) for r in records if r) > 0


async def test_a_failing_model_fails_its_batch_and_nothing_else(monkeypatch):
    async with running_engine() as engine:
        await engine.submit(A, create_load())

        def explode(batch):
            batch.error = RuntimeError("kernel")

        monkeypatch.setattr(Batch, "run", explode)
        with pytest.raises(ModelFailedError, match="nothing was applied"):
            await engine.submit(A, step_rows(rows(1), 0))
        monkeypatch.undo()
        assert (await engine.submit(A, step_rows(rows(1), 0))).step == 1


async def test_a_full_queue_refuses_at_once_and_keeps_what_it_accepted():
    limits = EngineLimits(max_waiting_jobs=2)
    store = ScriptedStore()
    async with running_engine(store, limits) as engine:
        model = engine.registry.get("load")
        instance = (Observations(rows=rows(200)), 0)
        results = await asyncio.gather(
            *(engine.predict(model, [instance]) for _ in range(5)), return_exceptions=True
        )
        assert sum(isinstance(result, QueueFullError) for result in results) == 3
        assert sum(isinstance(result, list) for result in results) == 2


async def test_a_long_history_does_not_hold_up_single_steps():
    limits = EngineLimits(batch=BatchLimits(max_rows=8, max_slice_steps=4, max_cells=32))
    async with running_engine(limits=limits) as engine:
        await engine.submit(A, create_load())
        long = engine.submit(Key("t", "b"), create_load(rows(4000)))
        await asyncio.sleep(0)
        for step in range(10):
            await engine.submit(A, step_rows(rows(1), step))
        assert not long.done()
        assert (await long).step == 4000


async def test_a_client_that_left_does_not_stop_its_lane():
    store = ScriptedStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        store.hold_commits()
        gone = engine.submit(A, step_rows(rows(1), 0))
        next_one = engine.submit(A, step_rows(rows(1, seed=1), 1))
        await store.commit_asked.wait()
        gone.cancel()
        store.commit_gate.set()
        assert (await next_one).step == 2


async def test_closing_finishes_what_was_accepted_and_refuses_the_rest():
    store = ScriptedStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        store.hold_commits()
        accepted = engine.submit(A, step_rows(rows(1), 0))
        await store.commit_asked.wait()
        closing = asyncio.create_task(engine.close(grace_s=5))
        await asyncio.sleep(0)
        with pytest.raises(DrainingError):
            await engine.submit(A, step_rows(rows(1), 1))
        store.commit_gate.set()
        assert (await accepted).step == 1
        await closing


async def test_input_of_the_wrong_kind_applies_nothing():
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(2)))
        await engine.submit(Key("t", "m"), create_mood())
        with pytest.raises(InvalidInputError, match="reads rows"):
            await engine.submit(A, step_text("hello", 2))
        with pytest.raises(InvalidInputError, match="got 3"):
            await engine.submit(A, step_rows(np.zeros((1, 3), np.float32), 2))
        with pytest.raises(InvalidInputError, match="reads text"):
            await engine.submit(Key("t", "m"), step_rows(rows(1), 0))
        with pytest.raises(InvalidInputError, match="surrogate"):
            await engine.submit(Key("t", "m"), step_text("\ud83d", 0))
        assert (await engine.read(A)).step == 2
        assert (await engine.read(Key("t", "m"))).step == 0


async def test_many_refusals_in_one_lane_do_not_pile_up():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        refused = await asyncio.gather(
            *(engine.submit(A, step_text("x", 0)) for _ in range(900)), return_exceptions=True
        )
        assert all(isinstance(error, InvalidInputError) for error in refused)
        assert (await engine.submit(A, step_rows(rows(1), 0))).step == 1


async def test_a_session_of_a_version_that_is_gone_says_so():
    store = MemoryStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
    only_mood = type(small_models())([small_models().get("mood")], {}, "cpu")
    async with running_engine(store, registry=only_mood) as engine:
        with pytest.raises(VersionGoneError, match="'load' version 1"):
            await engine.submit(A, step_rows(rows(1), 0))


async def test_while_long_texts_are_read_for_predictions_others_have_their_turns():
    async with running_engine() as engine:
        model = engine.registry.get("mood")
        text, num_turns = "a waste of time " * 2_000, 0
        asked = asyncio.ensure_future(engine.predict(model, [(Observations(text=text), None)] * 8))
        while not engine.workers.of(model)._waiting:
            await asyncio.sleep(0)
            num_turns += 1
        assert num_turns >= 8
        assert len(set(await asked)) == 1
