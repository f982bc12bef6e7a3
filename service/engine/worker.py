"""One worker per model: whatever waits when the graph becomes free forms the next batch.

Rule 1: no timer. An idle worker runs a job at once; a busy one batches what gathered meanwhile.
Rule 2: the queue is bounded in jobs and in steps; a job that does not fit is refused at once.
Rule 3: a job is finished exactly once, by `on_done`, with its outputs or with an error; a failed
        batch fails its own jobs and no others, and the worker goes on.
Rule 4: a job that nobody waits for any more, or whose deadline passed, is dropped before its next
        slice.

The task is owned by the engine, which cancels it when it closes.
"""

import asyncio
import time
from concurrent.futures import Executor

from service.engine.batcher import BatchLimits, plan
from service.engine.events import Observer
from service.engine.job import Job
from service.engine.registry import LoadedModel
from service.engine.runner import BatchResult, Row
from service.errors import CarryError, DeadlineError, ModelFailedError, QueueFullError

INLINE_S = 0.001
"""A batch that is expected to take no longer runs on the event loop."""


class Worker:
    """Runs the jobs of one loaded model."""

    def __init__(
        self,
        model: LoadedModel,
        limits: BatchLimits,
        max_waiting_jobs: int,
        max_waiting_steps: int,
        executor: Executor,
        observer: Observer,
    ) -> None:
        self._model = model
        self._limits = limits
        self._max_waiting_jobs = max_waiting_jobs
        self._max_waiting_steps = max_waiting_steps
        self._executor = executor
        self._observer = observer
        self._waiting: list[Job] = []
        self._num_steps = 0
        self._has_stopped = False
        # Expected time of a batch, by the power-of-two class of its cells (rows × steps).
        self._cost_s: dict[int, float] = {}
        self._wake = asyncio.Event()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            QueueFullError: it does not fit the queue; nothing of it was done.
        """
        assert job.steps_left, "a job without steps would never end"
        # An empty queue takes a job of any size: request limits bound it before it comes here.
        num_steps = self._num_steps + job.steps_left
        if len(self._waiting) >= self._max_waiting_jobs or (
            self._waiting and num_steps > self._max_waiting_steps
        ):
            raise QueueFullError(
                f"model {self._model.name!r} has {len(self._waiting)} pieces of work with"
                f" {self._num_steps} steps waiting (at most {self._max_waiting_jobs} and"
                f" {self._max_waiting_steps}); nothing was applied: try again later",
                retry_after_s=1,
            )
        self._waiting.append(job)
        self._num_steps = num_steps
        self._wake.set()

    async def run(self) -> None:
        """Plan, run, apply, for as long as the task lives."""
        while True:
            await self._wake.wait()
            self._report_queue()
            slices = plan([job.remaining_steps for job in self._waiting], self._limits)
            if not slices:
                self._wake.clear()
                continue
            jobs = [self._waiting[place] for place, _ in slices]
            if self._drop_unwanted(jobs):
                continue
            sizes = [num_steps for _, num_steps in slices]
            rows = [job.row(size) for job, size in zip(jobs, sizes, strict=True)]
            try:
                result = await self._run_batch(rows, max(sizes))
            except Exception as error:  # the boundary: whatever the runtime raises fails these jobs
                if not self._has_stopped:
                    self._fail(jobs, error)
            else:
                if not self._has_stopped:
                    self._apply(jobs, sizes, result)

    async def _run_batch(self, rows: list[Row], num_steps: int) -> BatchResult:
        """In this thread where that is known to be short, else in the worker's own.

        To hand a batch to another thread and back costs more than to run a small one.
        """
        run = self._model.runner.run
        size_class = (len(rows) * num_steps).bit_length()
        if self._cost_s.get(size_class, 1.0) <= INLINE_S:
            result = run(rows)
            await asyncio.sleep(0)  # whoever became ready meanwhile comes first
        else:
            result = await asyncio.get_running_loop().run_in_executor(self._executor, run, rows)
        before = self._cost_s.get(size_class, result.ort_s)
        self._cost_s[size_class] = before + 0.1 * (result.ort_s - before)
        return result

    def refuse_all(self, problem: CarryError) -> None:
        """End everything that waits or runs: the worker will not go on."""
        self._has_stopped = True
        self._refuse(self._waiting, problem)

    def _apply(self, jobs: list[Job], sizes: list[int], result: BatchResult) -> None:
        self._observer.batch_ran(self._model.name, self._model.version, len(jobs), result.ort_s)
        self._take_out(jobs)
        runner = self._model.runner
        for row, (job, size) in enumerate(zip(jobs, sizes, strict=True)):
            if job.advance(size, result, row, runner):
                job.on_done(job, None)
            else:
                self._waiting.append(job)
                self._num_steps += job.steps_left

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        problem = ModelFailedError(
            f"model {self._model.name!r} version {self._model.version} failed on this input"
            f" ({type(error).__name__}); nothing was applied"
        )
        problem.__cause__ = error
        self._refuse(jobs, problem)

    def _drop_unwanted(self, jobs: list[Job]) -> bool:
        """Drop those whose client left or whose deadline passed; False if there are none."""
        now = time.monotonic()
        late = [job for job in jobs if now > job.deadline or job.future.done()]
        if late:
            self._refuse(
                late,
                DeadlineError(
                    "the request waited longer than its deadline; nothing was applied: try again",
                    retry_after_s=1,
                ),
            )
        return bool(late)

    def _refuse(self, jobs: list[Job], problem: CarryError) -> None:
        self._take_out(jobs)
        for job in jobs:
            job.on_done(job, problem)

    def _take_out(self, jobs: list[Job]) -> None:
        if len(jobs) == len(self._waiting):
            self._waiting = []
        else:
            gone = set(map(id, jobs))
            self._waiting = [job for job in self._waiting if id(job) not in gone]
        self._num_steps -= sum(job.steps_left for job in jobs)

    def _report_queue(self) -> None:
        self._observer.queue_changed(self._model.name, self._model.version, len(self._waiting))
