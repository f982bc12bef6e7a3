"""Where the time of a request went adds up to all of it, on whichever way it went."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.graph.batch_planner import BatchLimits
from service.engine.limits import EngineLimits
from service.engine.session.requests import DeleteRequest, Observations
from service.engine.timing import RequestTiming, on
from service.errors import StoreUnavailableError
from service.stores.record.record import Key
from tests.engine.support import (
    A,
    ScriptedStore,
    create_load,
    create_mood,
    rows,
    running_engine,
    step_rows,
    step_text,
)

STAGES = ["begin_s", "queue_s", "graph_s", "commit_s", "answer_s"]


def marked(queued=0.0, ran=0.0, graph=0.0, committed=0.0):
    timing = RequestTiming()
    timing.began_s = 1.0
    timing.queued_s, timing.ran_s, timing.graph_s, timing.committed_s = (
        queued,
        ran,
        graph,
        committed,
    )
    return timing


@pytest.mark.parametrize(
    ("timing", "spent"),
    [
        (marked(2, 6, 3, 7), [1, 1, 3, 1, 2]),
        (marked(), [8, 0, 0, 0, 0]),
        (marked(2), [1, 7, 0, 0, 0]),
        (marked(2, 6, 3), [1, 1, 3, 3, 0]),
        (marked(committed=7), [6, 0, 0, 0, 2]),
    ],
    ids=["whole", "never queued", "still queued", "never stored", "without a graph"],
)
def test_what_never_happened_took_no_time(timing, spent):
    assert timing.spent(9.0) == dict(zip(STAGES, spent, strict=True))


@given(st.lists(st.floats(0.001, 10), min_size=5, max_size=5), st.integers(0, 3))
def test_the_parts_are_the_whole(gaps, num_stages):
    times = np.cumsum([1.0, *gaps])
    queued, ran, committed = [*times[1 : 1 + num_stages], *[0.0] * (3 - num_stages)]
    graph = (ran - queued) / 2 if ran else 0.0
    timing = marked(queued, ran, graph, committed)
    spent = timing.spent(times[-1])
    assert list(spent) == STAGES
    assert all(seconds >= -1e-9 for seconds in spent.values())
    assert sum(spent.values()) == pytest.approx(times[-1] - timing.began_s)


async def followed(asking):
    """What an awaitable, made while a timing is set, left on it; and when it was over."""
    timing = RequestTiming()
    with on(timing):
        awaited = asking()
    await awaited
    return timing, time.perf_counter()


def assert_whole_way(timing, ended_s, model):
    """Every mark was made, in order."""
    assert timing.model.name == model
    assert timing.began_s <= timing.queued_s <= timing.ran_s <= timing.committed_s <= ended_s
    assert 0 < timing.graph_s <= timing.ran_s - timing.queued_s


async def test_a_step_leaves_every_mark():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        for _ in range(2):  # alone, then in a group of steps
            timing, ended_s = await followed(lambda: engine.submit(A, step_rows(rows(1))))
            assert_whole_way(timing, ended_s, "load")
            assert timing.num_batches == 1


async def test_steps_of_one_group_have_their_own_timings():
    keys = [Key("t", f"s{n}") for n in range(4)]
    async with running_engine() as engine:
        for key in keys:
            await engine.submit(key, create_load())
            await engine.submit(key, step_rows(rows(1)))
        timings = [RequestTiming() for _ in keys[:-1]] + [None]
        asked = zip(keys, timings, strict=True)
        futures = [engine.submit(key, step_rows(rows(1)), timing) for key, timing in asked]
        await asyncio.gather(*futures)
        for timing in timings[:-1]:
            assert_whole_way(timing, time.perf_counter(), "load")
        assert len({timing.ran_s for timing in timings[:-1]}) == 1
        assert len({timing.queued_s for timing in timings[:-1]}) == 3


async def test_a_step_whose_group_lost_a_race_goes_on_with_its_timing():
    store = ScriptedStore()
    async with running_engine(store) as engine, running_engine(store) as rival:
        await engine.submit(A, create_load())
        await engine.submit(A, step_rows(rows(1)))
        store.before_commit = lambda _: rival.submit(A, step_rows(rows(1)))
        timing, ended_s = await followed(lambda: engine.submit(A, step_rows(rows(1))))
        assert_whole_way(timing, ended_s, "load")
        assert timing.num_batches == 2


async def test_a_long_text_counts_the_batches_that_it_was_in():
    limits = EngineLimits(batch=BatchLimits(max_rows=8, max_slice_steps=4, max_cells=64))
    async with running_engine(limits=limits) as engine:
        await engine.submit(A, create_mood())
        timing, ended_s = await followed(lambda: engine.submit(A, step_text("x " * 40)))
        assert_whole_way(timing, ended_s, "mood")
        assert timing.num_batches > 5


async def test_a_preview_is_not_committed():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        timing, _ = await followed(lambda: engine.submit(A, step_rows(rows(1), is_preview=True)))
        assert timing.num_batches == 1
        assert timing.committed_s == 0


async def test_a_close_asks_no_graph():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        timing, ended_s = await followed(lambda: engine.submit(A, DeleteRequest()))
        assert (timing.model, timing.num_batches) == (None, 0)
        assert timing.began_s <= timing.committed_s <= ended_s


async def test_a_step_that_waited_for_its_store_says_so():
    store = ScriptedStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        store.hold_commits()
        timing = RequestTiming()
        with on(timing):
            future = engine.submit(A, step_rows(rows(1)))
        await store.commit_asked.wait()
        assert timing.ran_s
        assert not timing.committed_s
        now = time.perf_counter()
        spent = timing.spent(now)
        assert spent["commit_s"] == now - timing.ran_s
        store.commit_gate.set()
        await future
        assert timing.committed_s >= now


async def test_a_step_that_was_not_stored_has_no_mark_of_it():
    store = ScriptedStore()
    async with running_engine(store) as engine:
        await engine.submit(A, create_load())
        store.fail_commits = 1
        timing = RequestTiming()
        with on(timing):
            future = engine.submit(A, step_rows(rows(1)))
        with pytest.raises(StoreUnavailableError):
            await future
        assert timing.num_batches == 1
        assert timing.committed_s == 0


async def test_a_bulk_has_one_timing():
    keys = [Key("t", f"s{n}") for n in range(5)]
    async with running_engine() as engine:
        for key in keys:
            await engine.submit(key, create_load())
        asked = [(key, step_rows(rows(1))) for key in keys for _ in range(2)]
        timing, ended_s = await followed(lambda: engine.submit_many(asked))
        assert_whole_way(timing, ended_s, "load")
        values = np.zeros((5, 2), np.float32)
        for _ in range(2):  # the second time as a group
            timing, ended_s = await followed(lambda: engine.step_rows(keys, values, [None] * 5))
            assert_whole_way(timing, ended_s, "load")
            assert timing.num_batches == 1


async def test_instances_have_one_timing():
    async with running_engine() as engine:
        model = engine.registry.get("load")
        instances = [(Observations(rows=rows(3)), 0)] * 4
        with on(timing := RequestTiming()):
            await engine.predict(model, instances)
        assert timing.model is model
        assert timing.num_batches == 1


async def test_without_a_trail_nobody_marks():
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        await engine.submit(A, step_rows(rows(1)))
        [worker] = [each for each in engine.workers if each.model.name == "load"]
        assert not worker._has_timings
