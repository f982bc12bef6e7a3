"""The queue of a model: what it takes, what it drops, and that nothing stays behind in it."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from service.engine.batcher import BatchLimits
from service.engine.engine import EngineLimits
from service.engine.events import NullObserver
from service.engine.inputs import Past, work_for
from service.engine.job import Job
from service.engine.requests import Observations
from service.engine.worker import Worker
from service.errors import DeadlineError, QueueFullError
from tests.engine.support import (
    A,
    ScriptedStore,
    Witness,
    create_load,
    rows,
    running_engine,
    small_models,
    step_rows,
)

SLICES_OF_ONE = BatchLimits(max_rows=1, max_slice_steps=1, max_cells=1)
AT_MOST_S = 5.0


class Asked:
    """A job and what became of it."""

    def __init__(self, num_rows, deadline_s=AT_MOST_S):
        model = small_models().get("load")
        segments, _ = work_for(model, Past(start_s=0), Observations(rows=rows(num_rows)), "last")
        loop = asyncio.get_running_loop()
        self.client, self.outcome = loop.create_future(), loop.create_future()
        deadline = time.monotonic() + deadline_s
        self.job = Job(segments, model.layout.initial_row, self.client, deadline, self._on_done)

    def _on_done(self, job, error):
        self.outcome.set_result(error or job.outputs)  # a second time would raise


@asynccontextmanager
async def working(batch=SLICES_OF_ONE, max_jobs=100, max_steps=100, observer=None):
    """A worker whose task starts with the first wait: what comes before it finds it asleep."""
    with ThreadPoolExecutor(1) as executor:
        model = small_models().get("load")
        worker = Worker(model, batch, max_jobs, max_steps, executor, observer or NullObserver())
        task = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(AT_MOST_S):
                yield worker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_job_past_its_deadline_is_dropped_unrun():
    witness = Witness()
    async with working(observer=witness) as worker:
        late, in_time = Asked(3, deadline_s=-1), Asked(2)
        worker.submit(late.job)
        worker.submit(in_time.job)
        assert isinstance(await late.outcome, DeadlineError)
        assert await in_time.outcome
        assert witness.batch_rows == [1, 1]


async def test_a_job_whose_client_left_is_dropped_unrun():
    witness = Witness()
    async with working(observer=witness) as worker:
        left, waiting = Asked(3), Asked(2)
        worker.submit(left.job)
        worker.submit(waiting.job)
        left.client.cancel()
        assert isinstance(await left.outcome, DeadlineError)
        assert await waiting.outcome
        assert witness.batch_rows == [1, 1]


async def test_the_steps_that_wait_are_bounded_and_counted_off_when_done():
    async with working(max_steps=10) as worker:
        for _ in range(3):
            first = [Asked(8), Asked(2)]
            for asked in first:
                worker.submit(asked.job)
            with pytest.raises(QueueFullError, match="2 pieces of work with 10 steps"):
                worker.submit(Asked(1).job)
            for asked in first:
                assert await asked.outcome


async def test_what_was_dropped_is_counted_off_too():
    async with working(max_steps=10) as worker:
        for _ in range(3):
            late = [Asked(8, deadline_s=-1), Asked(2, deadline_s=-1)]
            for asked in late:
                worker.submit(asked.job)
            for asked in late:
                await asked.outcome


async def test_an_idle_worker_takes_a_job_of_any_size():
    async with working(max_steps=10) as worker:
        large = Asked(30)
        worker.submit(large.job)
        with pytest.raises(QueueFullError):
            worker.submit(Asked(1).job)
        assert await large.outcome


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
    limits = EngineLimits(request_timeout_s=0.05)
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
        worker = engine._workers["load", "1"]
        assert (worker._waiting, worker._num_steps) == ([], 0)


async def test_an_instance_that_finds_the_queue_full_takes_the_others_with_it():
    witness = Witness()
    limits = EngineLimits(max_waiting_jobs=2)
    async with running_engine(limits=limits, observer=witness) as engine:
        model = engine.registry.get("load")
        instance = (Observations(rows=rows(2)), 0)
        with pytest.raises(QueueFullError):
            await engine.predict(model, [instance] * 3)
        await asyncio.sleep(0)
        assert len(await engine.predict(model, [instance] * 2)) == 2
        assert witness.batch_rows == [2]
