"""One worker per model: whatever waits when the graph becomes free forms the next batch.

Rule 1: no timer. An idle worker runs a job at once; a busy one batches what gathered meanwhile.
Rule 2: a batch that is expected to be short runs on the event loop, because to hand it to a thread
        and back costs more. A longer one runs in a thread, and while it does, the loop answers
        those of the batch before and stages the next.
Rule 3: two batches are in a thread at most, and the second only if it is a full one, so that the
        graph is never idle under load and nobody waits behind work that could have waited.
        Where none but rows of many steps are in the graph, single steps pass them by: on the loop
        if their batch is short, else beside them, for those have a thread of their own, which
        yields the processors to other threads.
Rule 4: the queue is bounded (`backlog`), so that accepted work is answered soon however much is
        sent; what does not fit is refused at once.
Rule 5: a job is finished exactly once, with its outputs or with an error; a failed batch fails its
        own jobs and no others, and the worker goes on.
Rule 6: a job that nobody waits for any more, or whose deadline passed, is dropped before its next
        slice.

The engine owns it, from `start` to `close`; `on_defect` tells it of a failure of our own. Jobs that
are through go to `on_done`, those of a batch together; a failed one to `on_failed`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from service.engine.graph.batch_planner import BatchLimits, plan
from service.engine.graph.runner import Batch, BatchResult
from service.engine.inference.admission import COUNTED_STEPS, Backlog, QueueBounds
from service.engine.inference.group import Group
from service.engine.inference.job import Job
from service.engine.inference.refusals import model_failed, not_finite, too_late
from service.engine.models.loaded_model import LoadedModel
from service.engine.observer import Observer
from service.engine.timing import mark_batch
from service.errors import CarryError
from service.work_thread import WorkThread

INLINE_S = 0.0002
"""A batch that is expected to take no longer runs on the event loop."""
_PASSING = 3
"""One that passes by rows of many steps may take as many times that: a thread may be late then."""
_LONG_NICENESS = 10

_FULL_ROWS = 64
"""As many rows make good use of the graph: more wait for the batch after."""


OnDone = Callable[[list[Job], list[int], BatchResult], None]
"""Jobs that are through, the row of each in the batch that ended it, and that batch's result."""


class Worker:
    """Runs the jobs of one loaded model."""

    def __init__(
        self,
        model: LoadedModel,
        limits: BatchLimits,
        bounds: QueueBounds,
        observer: Observer,
        on_done: OnDone,
        on_failed: Callable[[Job, CarryError], None],
        on_defect: Callable[[BaseException], None],
    ) -> None:
        self.model = model
        self._limits = limits
        self.full_rows = min(_FULL_ROWS, limits.max_rows)
        self._backlog = Backlog(model, bounds)
        self._observer = observer
        self._on_done = on_done
        self._on_failed = on_failed
        self._on_defect = on_defect
        self._waiting: list[Job] = []
        self._groups: deque[Group] = deque()
        self._num_grouped = 0
        self._was_group = False
        self._in_thread: dict[Batch, tuple[list[Job], list[int]] | Group] = {}
        self._is_pump_due = False
        self._has_stopped = False
        self._has_timings = False  # whether jobs have any
        # Expected time of a batch, by the power-of-two class of its cells (rows × steps).
        self._cost_s: dict[int, float] = {}
        self._loop: asyncio.AbstractEventLoop
        self._thread: WorkThread[Batch]
        self._long_thread: WorkThread[Batch]

    def start(self) -> None:
        """Begin to serve, on the loop that runs now."""
        self._loop = asyncio.get_running_loop()
        name = f"{self.model.name}-{self.model.version}"
        self._thread = WorkThread(name, self._on_ran)
        self._long_thread = WorkThread(f"{name}-long", self._on_ran, _LONG_NICENESS)

    def close(self, *, waits: bool = True) -> None:
        """Let go of the threads. Whatever waits must have been ended before."""
        self._has_stopped = True
        self._thread.close(waits=waits)
        self._long_thread.close(waits=waits)
        # They know the worker, which is freed now, not when the collector comes by.
        del self._thread, self._long_thread

    @property
    def is_running(self) -> bool:
        """Whether a batch is in the thread."""
        return bool(self._in_thread)

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            QueueFullError: it does not fit the queue; nothing of it was done.
        """
        self._backlog.admit(job.admission, job.steps_left, self._num_pieces())
        self._put(job)

    def submit_all(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs of one request, which is accepted or refused as a whole.

        Raises:
            QueueFullError: they do not fit the queue; nothing of them was done.
        """
        self._backlog.require_room(sum([job.steps_left for job in jobs]), self._num_pieces())
        for job in jobs:
            self._put(job)

    def submit_group(self, group: Group) -> None:
        """Queue single rows that are a batch already.

        Raises:
            QueueFullError: they do not fit the queue; nothing of them was done.
        """
        self._backlog.admit(group.admission, group.num_rows, self._num_pieces())
        self._backlog.add(group.num_rows, group.num_rows)
        self._groups.append(group)
        self._num_grouped += group.num_pieces
        self._pump_soon()

    def row_joined(self, group: Group, *, is_first: bool) -> None:
        """A row, by a request of its own, comes to a group that waits; with its first it joins.

        Raises:
            QueueFullError: it does not fit the queue; nothing of it was done.
        """
        self._backlog.require_room(1, len(self._waiting) + self._num_grouped)
        self._backlog.add(1, 1)
        if is_first:
            self._groups.append(group)
        self._num_grouped += 1
        if not self._is_pump_due:
            self._pump_soon()

    def refuse_all(self, problem: CarryError) -> None:
        """End everything that waits or runs: the worker will not go on."""
        self._has_stopped = True
        loads = list(self._in_thread.values())
        groups = [load for load in loads if not isinstance(load, tuple)] + list(self._groups)
        jobs = [job for load in loads if isinstance(load, tuple) for job in load[0]]
        jobs += self._waiting
        self._waiting = []
        self._groups.clear()
        self._num_grouped = 0
        self._finish(jobs, problem)
        for group in groups:
            self._finish_group(group, problem)

    def refuse_if_full(self) -> None:
        """Raise QueueFullError if no work at all would fit now."""
        self._backlog.require_room(1, self._num_pieces())

    def _put(self, job: Job) -> None:
        assert job.steps_left, "a job without steps would never end"
        job.counted = min(job.steps_left, COUNTED_STEPS)
        self._backlog.add(job.steps_left, job.counted)
        self._waiting.append(job)
        if job.timing is not None:
            self._has_timings = True
            job.timing.queued(self.model)
        self._pump_soon()

    # Plan.

    def _pump_soon(self) -> None:
        """Begin a batch after every task that is ready now has submitted its work."""
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pump_due = False
        try:
            while self._may_begin() and self._begin():
                pass
            self._observer.queue_changed(self.model.name, self.model.version, self._num_jobs())
        except Exception as error:
            self._on_defect(error)

    def _may_begin(self) -> bool:
        if self._has_stopped or not (self._waiting or self._groups):
            return False
        num_running = len(self._in_thread)
        has_full = len(self._waiting) >= self.full_rows or (
            bool(self._groups) and self._groups[0].is_full
        )
        return not num_running or (num_running == 1 and (has_full or self._may_pass()))

    def _may_pass(self) -> bool:
        """Whether single steps wait behind nothing but rows of many steps."""
        return all(batch.num_cells > len(batch.lengths) for batch in self._in_thread) and (
            bool(self._groups) or any(job.steps_left == 1 for job in self._waiting)
        )

    def _begin(self) -> bool:
        """Run or hand over the next batch; False if others should have their turn first."""
        waiting, is_passing = self._waiting, bool(self._in_thread) and self._may_pass()
        if is_passing:
            waiting = [job for job in waiting if job.steps_left == 1]
        # In turns, where both wait: neither holds up the other.
        if self._groups and not (waiting and self._was_group):
            self._was_group = True
            return self._begin_group(self._groups.popleft(), is_passing=is_passing)
        self._was_group = False
        if self.model.constants:
            waiting = [job for job in waiting if job.constants == waiting[0].constants]
        # What waits is cut in two where it can be, so that one half runs while the other is
        # answered.
        max_rows = min(self._limits.max_rows, max(self.full_rows, len(waiting) // 2))
        limits = self._limits._replace(max_rows=max_rows)
        places, sizes = plan([job.remaining for job in waiting], limits)
        jobs = [waiting[place] for place in places]
        if self._drop_unwanted(jobs):
            return True
        self._take_out(jobs)
        return self._run(self._stage(jobs, sizes), (jobs, sizes), is_passing=is_passing)

    def _begin_group(self, group: Group, *, is_passing: bool) -> bool:
        self._num_grouped -= group.num_pieces
        num_dropped = group.drop_unwanted(time.monotonic())
        self._backlog.release(num_dropped, num_dropped)
        if not group.num_rows:
            return True
        return self._run(group.stage(), group, is_passing=is_passing)

    def _run(
        self,
        batch: Batch,
        load: tuple[list[Job], list[int]] | Group,
        *,
        is_passing: bool = False,
    ) -> bool:
        expected_s = self._cost_s.get(batch.num_cells.bit_length(), 1.0)
        most_s = _PASSING * INLINE_S if is_passing else INLINE_S
        if expected_s <= most_s and (is_passing or not self._in_thread):
            batch.run()
            self._apply(batch, load)
            if self._waiting or self._groups:
                self._pump_soon()
            return False
        self._in_thread[batch] = load
        is_long = batch.num_cells > len(batch.lengths)
        (self._long_thread if is_long else self._thread).put(batch)
        return True

    def _stage(self, jobs: list[Job], sizes: list[int]) -> Batch:
        values = [job.next_values(size) for job, size in zip(jobs, sizes, strict=True)]
        states = [job.running_state for job in jobs]
        stage = self.model.runner.stage
        if self.model.constants:
            return stage(values, states, sizes, constants=jobs[0].constants)
        if self.model.time is None:
            return stage(values, states, sizes)
        times = [job.first_time_s for job in jobs]
        return stage(values, states, sizes, times, [job.start for job in jobs])

    def _drop_unwanted(self, jobs: list[Job]) -> bool:
        """Drop those whose client left or whose deadline passed; False if there are none."""
        now = time.monotonic()
        late = [job for job in jobs if now > job.deadline or job.future.done()]
        if late:
            self._take_out(late)
            self._finish(late, too_late())
        return bool(late)

    def _take_out(self, jobs: list[Job]) -> None:
        if len(jobs) == len(self._waiting):
            self._waiting = []
        else:
            gone = set(jobs)
            self._waiting = [job for job in self._waiting if job not in gone]

    # Apply.

    def _on_ran(self, batch: Batch) -> None:
        """A batch came back from the thread."""
        load = self._in_thread.pop(batch)
        if self._has_stopped:
            return
        self._pump()  # first of all: the graph may be idle
        try:
            self._apply(batch, load)
        except Exception as error:
            self._on_defect(error)
        if self._waiting or self._groups:
            self._pump_soon()

    def _apply(self, batch: Batch, load: tuple[list[Job], list[int]] | Group) -> None:
        num_rows = len(batch.lengths)
        result = self._taken(batch)
        if batch.error is None:
            self._learn_cost(batch)
            self._observer.batch_ran(self.model.name, self.model.version, num_rows, batch.ort_s)
        if isinstance(load, tuple):
            if self._has_timings:
                mark_batch([job.timing for job in load[0]], self.model, batch)
            if result is None:
                self._finish(load[0], model_failed(self.model, batch.error))
            else:
                self._apply_jobs(result, *load)
            return
        if load.timings:
            mark_batch(load.timings, self.model, batch)
        if result is None:
            self._finish_group(load, model_failed(self.model, batch.error))
            return
        self._backlog.release(num_rows, num_rows)
        if result.refused is not None:
            load.refuse(np.flatnonzero(result.refused).tolist(), not_finite(self.model))
        if load.num_rows:
            load.ran(result.without_refused())

    def _taken(self, batch: Batch) -> BatchResult | None:
        """What the graph gave; None where it failed, or gave what its manifest does not promise."""
        if batch.error is None:
            try:
                result = self.model.runner.take(batch)
            except Exception as error:  # the boundary: a bundle is somebody else's
                batch.error = error
            else:
                if result.refused is not None:
                    num_rows = int(result.refused.sum())
                    self._observer.rows_refused(self.model.name, self.model.version, num_rows)
                return result
        return None

    def _apply_jobs(self, result: BatchResult, jobs: list[Job], sizes: list[int]) -> None:
        self._backlog.num_steps -= sum(sizes)
        done: list[Job] = []
        rows: list[int] = []
        for row, (job, size) in enumerate(zip(jobs, sizes, strict=True)):
            if result.refused is not None and result.refused[row]:
                job.steps_left -= size
                self._finish([job], not_finite(self.model))
                continue
            # A simple job that ends with its first batch is taken up from the result as it is.
            if not (job.is_simple and size == job.num_steps):
                try:
                    is_through = job.advance(size, result, row, self.model.runner.outputs)
                except Exception as error:  # a writer may find no number to choose by
                    self._finish([job], model_failed(self.model, error))
                    continue
                if not is_through:
                    self._waiting.append(job)
                    continue
                self._backlog.num_steps -= job.steps_left  # a writer may end early
            self._backlog.num_counted -= job.counted
            done.append(job)
            rows.append(row)
        if done:
            self._on_done(done, rows, result)

    def _learn_cost(self, batch: Batch) -> None:
        size_class = batch.num_cells.bit_length()
        before = self._cost_s.get(size_class, batch.ort_s)
        self._cost_s[size_class] = before + 0.1 * (batch.ort_s - before)
        is_well_used = batch.num_cells >= self.full_rows
        self._backlog.learn(batch.ort_s / batch.num_cells, is_well_used=is_well_used)

    def _finish(self, jobs: list[Job], problem: CarryError) -> None:
        for job in jobs:
            self._backlog.release(job.steps_left, job.counted)
            self._on_failed(job, problem)

    def _finish_group(self, group: Group, problem: CarryError) -> None:
        self._backlog.release(group.num_rows, group.num_rows)
        group.fail(problem)

    def _num_pieces(self) -> int:
        return len(self._waiting) + self._num_grouped

    def _num_jobs(self) -> int:
        running = sum([len(batch.lengths) for batch in self._in_thread])
        return len(self._waiting) + sum([group.num_rows for group in self._groups]) + running
