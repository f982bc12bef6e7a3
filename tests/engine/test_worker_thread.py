"""Where batches run, how many at a time, and what becomes of their jobs, whatever happens there."""

import asyncio
import os
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.graph.batch_planner import BatchLimits
from service.engine.inference import worker as worker_module
from service.errors import DrainingError, ModelFailedError
from tests.engine.fakes import Asked, FakeGraph, group_of, settle
from tests.engine.test_worker import submit, working

ROWS_OF_FOUR = BatchLimits(max_rows=4, max_slice_steps=64, max_cells=256)
CLOSING = DrainingError("closing")


async def test_short_batches_run_on_the_loop_and_long_ones_in_the_thread():
    async with working(graph=FakeGraph(cost_s=0.0)) as (worker, desk):
        for place in range(4):
            [asked] = submit(worker, desk, Asked(place))
            assert await asked.outcome == asked.expected
        first, *others = [batch.thread for batch in worker.model.staged]
        assert first.name == "fake-1"  # how long it takes is not known yet
        assert {thread is threading.main_thread() for thread in others} == {True}
    async with working(graph=FakeGraph(cost_s=1.0)) as (worker, desk):
        for asked in [submit(worker, desk, Asked(place))[0] for place in range(4)]:
            assert await asked.outcome == asked.expected
        assert {batch.thread.name for batch in worker.model.staged} == {"fake-1"}


async def test_single_steps_pass_a_slice_by_and_nothing_else_does():
    limits = ROWS_OF_FOUR._replace(max_slice_steps=8)
    async with working(limits, graph=FakeGraph(cost_s=0.0), max_steps=1000) as (worker, desk):
        for asked in submit(worker, desk, *(Asked(place) for place in range(3))):
            await asked.outcome  # as many are known to be short
        worker.model.hold()
        long = submit(worker, desk, Asked(*range(60)))
        for _ in range(2):  # those before, and the first slice
            await worker.model.has_entered()
        long += submit(worker, desk, Asked(1, 2))
        for asked in submit(worker, desk, Asked(3), Asked(4)):  # too few for a full batch
            assert await asked.outcome == asked.expected
        assert not any(asked.outcome.done() for asked in long)
        worker.model.let_all_go()
        for asked in long:
            assert await asked.outcome == asked.expected


async def test_single_steps_that_are_not_short_pass_a_slice_by_in_a_thread_of_their_own():
    limits = ROWS_OF_FOUR._replace(max_slice_steps=8)
    async with working(limits, graph=FakeGraph(cost_s=1.0), max_steps=1000) as (worker, desk):
        worker.model.hold(only_long=True)
        [long] = submit(worker, desk, Asked(*range(60)))
        await worker.model.has_entered()
        for asked in submit(worker, desk, Asked(3), Asked(4)):
            assert await asked.outcome == asked.expected
        assert not long.outcome.done()
        of_long, of_steps = [batch.thread for batch in worker.model.staged]
        assert (of_long.name, of_steps.name) == ("fake-1-long", "fake-1")
        if sys.platform == "linux":
            usual, nice = (
                os.getpriority(os.PRIO_PROCESS, thread.native_id) for thread in (of_steps, of_long)
            )
            assert usual == os.getpriority(os.PRIO_PROCESS, 0)
            assert nice == min(usual + 10, 19)
        worker.model.let_all_go()
        assert await long.outcome == long.expected


async def test_a_short_batch_does_not_overtake_single_steps_in_the_thread():
    async with working(ROWS_OF_FOUR) as (worker, desk):
        worker.model.hold()
        first = submit(worker, desk, Asked(0))
        await worker.model.has_entered()
        worker.model.cost_s = 0.0
        behind = submit(worker, desk, *(Asked(place) for place in range(3)))
        await settle()
        assert worker.model.num_rows == [1]
        worker.model.let_all_go()
        for asked in (*first, *behind):
            assert await asked.outcome == asked.expected


async def test_a_second_batch_enters_the_thread_only_when_it_is_full_and_no_third_does():
    async with working(ROWS_OF_FOUR) as (worker, desk):
        worker.model.hold()
        asked = [*submit(worker, desk, Asked(0))]
        await worker.model.has_entered()
        for place in range(1, 4):
            asked += submit(worker, desk, Asked(place))
            await settle()
            assert worker.model.num_rows == [1]
        asked += submit(worker, desk, Asked(4))
        await settle()
        assert worker.model.num_rows == [1, 4]
        asked += submit(worker, desk, *(Asked(place) for place in range(5, 15)))
        await settle()
        assert worker.model.num_rows == [1, 4]
        worker.model.let_one_go()
        await worker.model.has_entered()
        await settle()
        assert worker.model.num_rows == [1, 4, 4]
        worker.model.let_all_go()
        for each in asked:
            assert await each.outcome == each.expected
        assert sum(worker.model.num_rows) == len(asked)


async def test_all_that_was_put_in_one_turn_of_the_loop_is_one_batch():
    async with working(ROWS_OF_FOUR) as (worker, desk):
        for asked in submit(worker, desk, *(Asked(place) for place in range(4))):
            await asked.outcome
        assert worker.model.num_rows == [4]


lengths = st.lists(st.integers(1, 40) | st.just(1), min_size=1, max_size=25)
batch_limits = st.builds(BatchLimits, st.integers(1, 6), st.integers(1, 9), st.integers(1, 40))


@given(lengths, batch_limits, st.booleans(), st.lists(st.integers(0, 3), max_size=25))
def test_every_job_is_answered_once_with_each_of_its_steps_in_order(
    num_steps, limits, slow, pauses
):
    """Sliced, batched, in the thread or not, with all of it asked at once or now and then."""

    async def check():
        async with working(limits, graph=FakeGraph(float(slow)), max_steps=10**6) as (worker, desk):
            asked = []
            for place, count in enumerate(num_steps):
                asked += submit(worker, desk, Asked(*range(place, place + count)))
                for _ in range(pauses[place] if place < len(pauses) else 0):
                    await asyncio.sleep(0)
            for each in asked:
                assert await each.outcome == each.expected  # a second outcome would be a defect
            assert sum(int(b.lengths.sum()) for b in worker.model.staged) == sum(num_steps)
            assert worker._backlog.num_steps == worker._backlog.num_counted == 0

    asyncio.run(check())


async def test_every_step_of_a_sliced_job_is_answered_where_all_are_asked_for():
    async with working(BatchLimits(2, 3, 6)) as (worker, desk):
        [every] = submit(worker, desk, Asked(*range(10), emit="all"))
        singles = submit(worker, desk, *(Asked(*range(count)) for count in range(1, 11)))
        expected = b"".join([await single.outcome for single in singles])
        assert await every.outcome == expected


async def test_a_batch_that_fails_in_the_thread_fails_its_own_jobs_and_no_others():
    graph = FakeGraph()
    graph.errors = [RuntimeError("kernel")]
    async with working(ROWS_OF_FOUR, graph=graph) as (worker, desk):
        graph.hold()
        failing = submit(worker, desk, Asked(0), Asked(1))
        await graph.has_entered()
        others = submit(worker, desk, *(Asked(place) for place in range(6)))
        await settle()
        assert graph.num_rows == [2, 4]
        graph.let_all_go()
        for asked in failing:
            error = await asked.outcome
            assert isinstance(error, ModelFailedError)
            assert "(RuntimeError); nothing was applied" in error.detail
        for asked in others:
            assert await asked.outcome == asked.expected
        assert worker._backlog.num_steps == worker._backlog.num_counted == 0


async def test_a_later_slice_that_fails_fails_the_job_once():
    graph = FakeGraph()
    graph.errors = [None, RuntimeError("kernel")]
    async with working(BatchLimits(4, 2, 8), graph=graph) as (worker, desk):
        short, long = submit(worker, desk, Asked(7, 8), Asked(*range(9)))
        assert await short.outcome == short.expected
        assert isinstance(await long.outcome, ModelFailedError)
        assert worker._backlog.num_steps == worker._backlog.num_counted == 0
        [after] = submit(worker, desk, Asked(*range(5)))
        assert await after.outcome == after.expected


async def test_a_group_that_fails_is_told_once_and_the_next_is_served():
    graph = FakeGraph()
    graph.errors = [RuntimeError("kernel")]
    async with working(ROWS_OF_FOUR, graph=graph) as (worker, _):
        failing, other = group_of(graph, 1, 2, 3), group_of(graph, 4, 5)
        worker.submit_group(failing)
        worker.submit_group(other)
        assert isinstance(await failing.outcome, ModelFailedError)
        assert await other.outcome == other.expected
        assert worker._backlog.num_steps == worker._backlog.num_counted == 0


async def test_refusing_all_ends_what_runs_and_what_waits_once():
    async with working(ROWS_OF_FOUR) as (worker, desk):
        worker.model.hold()
        asked = [*submit(worker, desk, Asked(0))]
        await worker.model.has_entered()
        asked += submit(worker, desk, *(Asked(place) for place in range(7)))
        groups = [group_of(worker.model, 1, 2, 3, 4) for _ in range(2)]
        for group in groups:
            worker.submit_group(group)
        await settle()
        assert worker.model.num_rows == [1, 4]  # two are in the thread, the rest waits
        worker.refuse_all(CLOSING)
        assert [each.outcome.result() for each in (*asked, *groups)] == [CLOSING] * 10
        worker.model.let_all_go()
        await worker.model.has_entered()
        await settle()  # a second outcome would be a defect
        assert worker.model.num_rows == [1, 4]


async def test_a_defect_behind_a_batch_is_told_wherever_it_ran():
    defect = RuntimeError("defect")

    def explode(*_):
        raise defect

    for cost_s in (0.0, 1.0):
        async with working(graph=FakeGraph(cost_s)) as (worker, desk):
            await submit(worker, desk, Asked(1))[0].outcome
            worker._on_done = explode
            submit(worker, desk, Asked(2))
            await worker.model.has_entered()
            await worker.model.has_entered()
            await settle()
            assert desk.defects.pop() is defect


async def test_the_rows_in_the_graph_are_told_with_those_that_wait(monkeypatch):
    async with working(ROWS_OF_FOUR) as (worker, desk):
        told = []
        monkeypatch.setattr(
            worker._observer, "queue_changed", lambda *told_of: told.append(told_of), raising=False
        )
        worker.model.hold()
        submit(worker, desk, Asked(0), Asked(1))
        await worker.model.has_entered()
        submit(worker, desk, Asked(2))
        await settle()
        assert told == [("fake", "1", 2), ("fake", "1", 3)]


async def test_a_long_job_and_a_stream_of_short_ones_both_go_on_on_the_loop():
    """Every batch that holds a slice of the long one is followed by one that does not."""
    limits, graph = ROWS_OF_FOUR._replace(max_slice_steps=8), FakeGraph(cost_s=0.0)
    async with working(limits, max_steps=10**6, graph=graph) as (worker, desk):
        for known in ([Asked(1)], [Asked(1), Asked(2)], [Asked(*range(8))]):
            for asked in submit(worker, desk, *known):
                await asked.outcome  # as many cells are known to be short
        [long] = submit(worker, desk, Asked(*range(200)))
        num_short = 0
        while not long.outcome.done():
            for asked in submit(worker, desk, Asked(1), Asked(2)):
                await asked.outcome
                num_short += 1
        assert await long.outcome == long.expected
        assert 20 <= num_short <= 4 * 25


async def test_a_long_job_and_a_stream_of_short_ones_both_go_on_in_the_threads():
    """Single steps pass each slice of the long one by, and it needs no more slices than it has."""
    limits, graph = ROWS_OF_FOUR._replace(max_slice_steps=8), FakeGraph(cost_s=1.0)
    async with working(limits, max_steps=10**6, graph=graph) as (worker, desk):
        graph.hold(only_long=True)
        [long] = submit(worker, desk, Asked(*range(200)))
        for _ in range(25):
            assert not long.outcome.done()
            for asked in submit(worker, desk, Asked(1), Asked(2)):
                assert await asked.outcome == asked.expected
            graph.let_one_go()
        assert await long.outcome == long.expected


@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_where_a_batch_runs_changes_nothing_in_its_answer(where, monkeypatch):
    monkeypatch.setattr(worker_module, "INLINE_S", {"loop": 10.0, "thread": 0.0}[where])
    async with working(BatchLimits(3, 5, 15)) as (worker, desk):
        await submit(worker, desk, Asked(1))[0].outcome
        asked = submit(worker, desk, *(Asked(*range(count)) for count in range(1, 13)))
        for each in asked:
            assert await each.outcome == each.expected
