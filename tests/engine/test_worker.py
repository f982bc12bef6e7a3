"""The queue of a model: what it takes, what it drops, and that nothing stays behind in it."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from service.engine.graph.batch_planner import BatchLimits
from service.engine.inference.admission import QueueBounds
from service.engine.inference.worker import Worker
from service.engine.limits import EngineLimits
from service.engine.observer import NullObserver
from service.engine.session.requests import Observations
from service.errors import DeadlineError, ModelFailedError, QueueFullError
from tests.engine.fakes import AT_MOST_S, Asked, Desk, FakeGraph, group_of
from tests.engine.support import (
    A,
    ScriptedStore,
    create_load,
    rows,
    running_engine,
    step_rows,
)

SLICES_OF_ONE = BatchLimits(max_rows=1, max_slice_steps=1, max_cells=1)
LONG_AGO = -1.0


@asynccontextmanager
async def working(batch=SLICES_OF_ONE, max_jobs=100, max_steps=100, max_s=1e9, graph=None):
    """A worker over a fake graph; what is submitted waits for the first wait of the test."""
    worker = Worker(
        graph or FakeGraph(),
        batch,
        QueueBounds(max_jobs, max_steps, max_s),
        NullObserver(),
        (desk := Desk()).on_done,
        desk.on_failed,
        desk.defects.append,
    )
    worker.start()
    try:
        async with asyncio.timeout(AT_MOST_S):
            yield worker, desk
            assert desk.defects == []
    finally:
        worker.model.let_all_go()
        worker.close()


def submit(worker, desk, *asked):
    for each in desk.take_up(*asked):
        worker.submit(each.job)
    return asked


@pytest.mark.parametrize("cost_s", [0.0, 1.0], ids=["on the loop", "in the thread"])
async def test_a_job_past_its_deadline_is_dropped_unrun(cost_s):
    async with working(graph=FakeGraph(cost_s)) as (worker, desk):
        late, in_time = Asked(1, 2, 3, deadline=LONG_AGO), Asked(4, 5)
        submit(worker, desk, late, in_time)
        assert isinstance(await late.outcome, DeadlineError)
        assert await in_time.outcome == in_time.expected
        assert worker.model.num_rows == [1, 1]


async def test_a_job_whose_client_left_is_dropped_unrun():
    async with working() as (worker, desk):
        left, waiting = Asked(1, 2, 3), Asked(4, 5)
        submit(worker, desk, left, waiting)
        left.future.cancel()
        assert isinstance(await left.outcome, DeadlineError)
        assert await waiting.outcome == waiting.expected
        assert worker.model.num_rows == [1, 1]


async def test_a_job_whose_client_leaves_in_between_is_dropped_before_its_next_slice():
    async with working() as (worker, desk):
        worker.model.hold()
        left, waiting = submit(worker, desk, Asked(1, 2, 3, 4), Asked(5, 6))
        await worker.model.has_entered()
        left.future.cancel()
        worker.model.let_all_go()
        assert isinstance(await left.outcome, DeadlineError)
        assert await waiting.outcome == waiting.expected
        slices = [int(batch.values[0][0]) for batch in worker.model.staged]
        assert slices == [1, 5, 6]
        assert worker._backlog.num_steps == worker._backlog.num_counted == 0


async def test_the_steps_that_wait_are_bounded_and_counted_off_when_done():
    async with working(max_steps=10) as (worker, desk):
        for _ in range(3):
            first = submit(worker, desk, Asked(*range(8)), Asked(1, 2))
            with pytest.raises(QueueFullError, match="2 pieces of work with 10 steps"):
                worker.submit(Asked(1).job)
            for asked in first:
                assert await asked.outcome == asked.expected


async def test_what_was_dropped_is_counted_off_too():
    async with working(max_steps=10) as (worker, desk):
        for _ in range(3):
            late = [Asked(*range(8), deadline=LONG_AGO), Asked(1, 2, deadline=LONG_AGO)]
            submit(worker, desk, *late)
            for asked in late:
                await asked.outcome


async def test_steps_that_are_in_the_graph_count_as_waiting():
    async with working(BatchLimits(4, 64, 64), max_steps=10) as (worker, desk):
        worker.model.hold()
        running = submit(worker, desk, Asked(*range(4)), Asked(*range(5)))
        await worker.model.has_entered()
        submit(worker, desk, Asked(1))
        with pytest.raises(QueueFullError, match="1 pieces of work with 10 steps"):
            worker.submit(Asked(1).job)
        worker.model.let_all_go()
        for asked in running:
            await asked.outcome
        submit(worker, desk, Asked(*range(9)))


async def test_pieces_of_work_are_bounded_whatever_their_size():
    async with working(max_jobs=3) as (worker, desk):
        asked = submit(worker, desk, Asked(1), Asked(1))
        group = group_of(worker.model, 1, 2)
        worker.submit_group(group)
        for refused in (lambda: worker.submit(Asked(1).job), worker.refuse_if_full):
            with pytest.raises(QueueFullError, match="3 pieces of work with 4 steps"):
                refused()
        assert await group.outcome == group.expected
        for each in asked:
            await each.outcome
        worker.refuse_if_full()


async def test_an_idle_worker_takes_a_job_of_any_size():
    async with working(max_steps=10, max_s=1e-9) as (worker, desk):
        for _ in range(2):
            [large] = submit(worker, desk, Asked(*range(30)))
            with pytest.raises(QueueFullError):
                worker.submit(Asked(1).job)
            assert await large.outcome == large.expected


@asynccontextmanager
async def working_at_a_tenth_of_a_second_a_step(max_s):
    """What is submitted then stays in the graph, or waits for it."""
    limits, graph = BatchLimits(max_rows=8, max_slice_steps=64, max_cells=64), FakeGraph(6.4)
    async with working(limits, max_steps=10**6, max_s=max_s, graph=graph) as (worker, desk):
        await submit(worker, desk, Asked(*range(64)))[0].outcome
        graph.hold()
        yield worker, desk
        worker.refuse_all(DeadlineError("the end of the test"))


async def test_work_that_would_take_too_long_is_refused():
    async with working_at_a_tenth_of_a_second_a_step(max_s=100.0) as (worker, desk):
        submit(worker, desk, Asked(*range(900)))
        worker.refuse_if_full()
        submit(worker, desk, Asked(*range(101)))
        for refused in (lambda: worker.submit(Asked(1).job), worker.refuse_if_full):
            with pytest.raises(QueueFullError, match=r"about 1e\+02 s .* and 100 s"):
                refused()


@pytest.mark.parametrize("max_rows", [1, 8])
async def test_what_a_graph_costs_that_takes_few_rows_is_learnt_from_those(max_rows):
    limits, graph = BatchLimits(max_rows, max_slice_steps=64, max_cells=64), FakeGraph(1.0)
    bounds = {"max_jobs": 1000, "max_steps": 1000, "max_s": 20.0}
    async with working(limits, **bounds, graph=graph) as (worker, desk):
        for asked in submit(worker, desk, *(Asked(1) for _ in range(max_rows))):
            await asked.outcome
        graph.hold()
        submit(worker, desk, *(Asked(1) for _ in range(20 * max_rows + 1)))
        with pytest.raises(QueueFullError, match="and 20 s"):
            worker.refuse_if_full()
        worker.refuse_all(DeadlineError("the end of the test"))


async def test_a_result_that_cannot_be_read_fails_its_batch_and_no_other():
    async with working(BatchLimits(4, 64, 64)) as (worker, desk):
        take, errors = worker.model.take, [ValueError("a shape that was not promised")]
        worker.model.take = lambda batch: raise_first(errors) or take(batch)
        [failed] = submit(worker, desk, Asked(1, 2))
        assert isinstance(await failed.outcome, ModelFailedError)
        [fine] = submit(worker, desk, Asked(1, 2))
        assert await fine.outcome == fine.expected
        assert worker._backlog.num_steps == worker._backlog.num_counted == 0


def raise_first(errors):
    if errors:
        raise errors.pop()


async def test_a_long_job_counts_for_a_part_of_its_time_because_it_gives_way():
    async with working_at_a_tenth_of_a_second_a_step(max_s=200.0) as (worker, desk):
        submit(worker, desk, Asked(*range(10_000)))
        worker.refuse_if_full()
        submit(worker, desk, Asked(*range(10_000)))
        with pytest.raises(QueueFullError):
            worker.refuse_if_full()


async def test_groups_and_jobs_take_turns():
    async with working(BatchLimits(1, 1, 1)) as (worker, desk):
        groups = [group_of(worker.model, 10 + place) for place in range(3)]
        asked = submit(worker, desk, *(Asked(place) for place in range(3)))
        for group in groups:
            worker.submit_group(group)
        for each in (*asked, *groups):
            assert await each.outcome == each.expected
        order = [int(batch.values[0][0]) for batch in worker.model.staged]
        assert order == [10, 0, 11, 1, 12, 2]


async def test_a_group_that_nobody_waits_for_is_dropped_unrun():
    async with working(BatchLimits(4, 4, 16)) as (worker, _):
        left, late, wanted = (group_of(worker.model, place, place) for place in range(3))
        left.future.cancel()
        late.deadline = LONG_AGO
        for group in (left, late, wanted):
            worker.submit_group(group)
        assert isinstance(await left.outcome, DeadlineError)
        assert isinstance(await late.outcome, DeadlineError)
        assert await wanted.outcome == wanted.expected
        assert worker.model.num_rows == [2]
        assert worker._backlog.num_steps == worker._backlog.num_counted == 0


async def test_a_request_past_its_deadline_is_answered_and_its_history_not_kept():
    limits = EngineLimits(batch=SLICES_OF_ONE, request_timeout_s=0.02)
    store = ScriptedStore()
    async with running_engine(store, limits) as engine:
        with pytest.raises(DeadlineError) as caught:
            await engine.submit(A, create_load(rows(20_000)))
        assert caught.value.retry_after_s == 1
        assert await store.load(A) is None


async def test_a_store_that_hangs_keeps_neither_its_clients_nor_the_close_waiting():
    store = ScriptedStore()
    limits = EngineLimits(request_timeout_s=0.5)
    async with running_engine(store, limits) as engine, asyncio.timeout(AT_MOST_S):
        await engine.submit(A, create_load())
        store.hold_commits()
        waiting = [engine.submit(A, step_rows(rows(1), step)) for step in range(3)]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [DeadlineError] * 3
        await engine.close(grace_s=AT_MOST_S)


async def test_a_cancelled_prediction_leaves_nothing_waiting():
    async with running_engine(limits=EngineLimits(batch=SLICES_OF_ONE)) as engine:
        model = engine.registry.get("load")
        many = [(Observations(rows=rows(5000)), 0)] * 3
        left = asyncio.create_task(engine.predict(model, many))
        await asyncio.sleep(0)
        left.cancel()
        await engine.predict(model, [(Observations(rows=rows(2)), 0)])
        worker = engine.workers.of(model)
        assert (worker._waiting, worker._backlog.num_steps, worker._backlog.num_counted) == (
            [],
            0,
            0,
        )


async def test_a_prediction_that_finds_the_queue_full_is_refused_as_a_whole():
    async with working(max_jobs=3) as (worker, desk):
        asked = submit(worker, desk, Asked(1), Asked(2), Asked(3))
        with pytest.raises(QueueFullError):
            worker.submit_all([Asked(4).job, Asked(5).job])
        for each in asked:
            assert await each.outcome == each.expected
        assert worker.model.num_rows == [1, 1, 1]


async def test_an_idle_queue_takes_a_request_of_any_number_of_jobs():
    async with working(max_jobs=2, max_steps=10, max_s=1e-9) as (worker, desk):
        for _ in range(2):
            asked = desk.take_up(*(Asked(*range(5)) for _ in range(20)))
            worker.submit_all([each.job for each in asked])
            with pytest.raises(QueueFullError):
                worker.submit_all([Asked(1).job])
            for each in asked:
                assert await each.outcome == each.expected
        assert worker._backlog.num_steps == worker._backlog.num_counted == 0


async def test_an_estimate_that_is_far_too_high_falls_by_whatever_is_let_in():
    """Even where that is single steps, of which each costs more than a step of a full batch."""
    async with working_at_a_tenth_of_a_second_a_step(max_s=1.0) as (worker, desk):
        worker.model.let_all_go()
        worker.model.cost_s = 0.001
        for _ in range(60):
            [asked] = submit(worker, desk, Asked(1))
            await asked.outcome
        worker.model.hold()
        submit(worker, desk, *(Asked(1) for _ in range(90)))


async def test_a_single_step_says_nothing_of_what_a_step_of_a_full_batch_costs():
    async with working_at_a_tenth_of_a_second_a_step(max_s=1e3) as (worker, desk):
        worker.model.let_all_go()
        worker.model.cost_s = 60.0
        for _ in range(60):
            [asked] = submit(worker, desk, Asked(1))
            await asked.outcome
        assert worker._backlog.cell_s == pytest.approx(0.1)
