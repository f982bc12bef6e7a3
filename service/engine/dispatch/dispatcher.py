"""What becomes of a task: decided, run, committed, answered. The code stands in that order.

Rule 1: a reply is given only after its commit.
Rule 2: a lost race drops the cached record and decides again from the store.
Rule 3: each path from `begin` leads to exactly one `_end`.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np

from service.contract.text import NO_TEXT, UNREAD
from service.engine.dispatch.decisions import decide_turn, num_steps_made, written
from service.engine.dispatch.group_commit import Committer
from service.engine.dispatch.request_task import RequestTask
from service.engine.dispatch.session_queues import SessionQueue, SessionQueues
from service.engine.dispatch.step_batch import StepBatch
from service.engine.graph.runner import BatchResult
from service.engine.inference.worker import Worker
from service.engine.inference.worker_pool import Workers
from service.engine.models.registry import Registry
from service.engine.observer import Observer
from service.engine.session.inputs import feed
from service.engine.session.requests import Observations, StartRequest, StepRequest
from service.engine.session.rules import (
    Apply,
    Reply,
    may_apply,
    stepped_alike,
)
from service.engine.session.starts import leaves_nothing
from service.engine.timing import RequestTiming
from service.errors import (
    CarryError,
    ContentionError,
    RecordUnreadableError,
    StoreUnavailableError,
)
from service.stores.base import Store, Write
from service.stores.record.record import STATE_AT, ModelFingerprint, Record
from service.wordings import case

_MAX_LOST_RACES = 50
_FEW = 6
"""Turns that are committed faster one by one than by columns."""


class Dispatcher:
    """Brings the task at the head of a session queue to its end, then begins the next."""

    def __init__(
        self,
        registry: Registry,
        workers: Workers,
        store: Store,
        queues: SessionQueues,
        observer: Observer,
    ) -> None:
        self._registry = registry
        self._workers = workers
        self._store = store
        self.queues = queues
        self.observer = observer
        self.committer = Committer(store, observer)
        self._open: dict[Worker, StepBatch] = {}
        self._loads: set[asyncio.Task[None]] = set()

    def join(self, task: RequestTask) -> None:
        """Take a task up, behind the others of its session.

        Raises:
            QueueFullError: too many of them wait already.
        """
        if self.queues.join(task):
            self.begin(task)

    def gather(
        self,
        queue: SessionQueue,
        request: StepRequest,
        future: "asyncio.Future[Reply]",
        deadline: float,
        timing: RequestTiming | None,
    ) -> bool:
        """Take up a single step (`is_single`) with others; False if it must go as a task.

        Raises:
            QueueFullError: its model has too much to do.
        """
        worker = queue.worker
        if worker is None:
            return False
        group = self._open.get(worker)
        if group is None or not group.is_open:
            group = self._open[worker] = StepBatch(self, worker)
        return group.add(queue, request, future, deadline, timing)

    async def forget_worker(self, worker: Worker) -> None:
        """Give a worker no more steps: every session queue finds its own anew."""
        await self.queues.forget_worker(worker)
        self._open.pop(worker, None)

    # A task begins: decide, from the cache if that may be enough, else from the store.

    def begin(self, task: RequestTask) -> None:
        """`task` has come to the head of its session queue."""
        if not task.is_wanted():
            self.next(task.queue)
            return
        queue = task.queue
        if queue.record is not None and may_apply(task.request, queue.record, queue.step):
            try:
                self._run(task, queue.record, queue.record, task.request.observations)
            except Exception:  # noqa: S110 -- a guess led here: the store knows the truth
                pass
            else:
                return
        self._decide_from_store(task)

    def _decide_from_store(self, task: RequestTask) -> None:
        loading = asyncio.create_task(self._load_and_decide(task))
        self._loads.add(loading)
        loading.add_done_callback(self._loads.discard)

    async def _load_and_decide(self, task: RequestTask) -> None:
        try:
            found = await self._store.load(task.queue.key)
            self.queues.remember(task.queue, found)
            decision = await decide_turn(task, found, self._store, self._registry)
            if isinstance(decision, Apply):
                task.expired = decision.expired
                observations = decision.fed or task.request.observations
                self._run(task, decision.base, decision.replaces, observations)
            else:
                self._end(task, decision.reply)
        except CarryError as error:
            self._end(task, error)
        except Exception as error:  # a task's boundary: the client must get an answer
            self.queues.remember(task.queue, None)
            self._end(task, _unexpected(error))

    # Run what was decided.

    def _run(
        self,
        task: RequestTask,
        base: Record,
        replaces: Record | None,
        observations: Observations | None,
    ) -> None:
        """Hand the task on to its worker or, with nothing to run, to the store.

        Raises:
            CarryError: the model is gone, the input does not fit it, or its queue is full.
        """
        task.base, task.replaces = base, replaces
        request, queue = task.request, task.queue
        if observations is None:
            task.cursor, task.outputs = UNREAD, b""
            self._commit_one(task, base.state)
            return
        worker = queue.worker or self._worker_for(task, base)
        model = worker.model
        step = queue.step if base is queue.record else base.step
        cursor = NO_TEXT if model.codec is None else base.cursor
        state = base.data[STATE_AT : STATE_AT + model.layout.row_bytes]
        start_s = base.header.start_s
        task.cursor = feed(task, model, start_s, step, cursor, state, observations, request.emit)
        if request.is_preview or request.key is not None or observations.final:
            task.is_simple = False
        worker.submit(task)

    def _worker_for(self, task: RequestTask, base: Record) -> Worker:
        """The worker of a record's model, remembered with the record."""
        worker = self._workers.of(self._registry.get_for_session(base.header))
        row_bytes = worker.model.layout.row_bytes
        if base.state_bytes != row_bytes:  # it would fail the whole batch that it is in
            raise RecordUnreadableError(
                case(
                    "record-unfit",
                    session=base.header.name,
                    state_bytes=base.state_bytes,
                    expected_bytes=row_bytes,
                )
            )
        if base is task.queue.record:
            task.queue.fits(worker)
        return worker

    def ran(self, tasks: list[RequestTask], rows: list[int], result: BatchResult) -> None:
        """The graph is through with some tasks, all those of a batch that ended there."""
        alike = [task.is_simple and task.queue.is_plain and task.remaining for task in tasks]
        if len(tasks) == len(result.states) and len(tasks) > _FEW and all(alike):
            self._commit_alike(tasks, result.states, result.last)
            return
        for task, row in zip(tasks, rows, strict=True):
            if task.remaining:  # it lies in the result as it is
                task.state, task.outputs = result.state_of(row), result.last_of(row)
            elif task.cursor is not NO_TEXT and task.writer is not None:
                task.cursor = task.writer.cursor
            request = task.request
            if isinstance(request, StepRequest) and request.is_preview:
                step = task.base.step + request.observations.num_observed
                self._end(task, Reply(task.base, step, task.outputs))
            elif isinstance(request, StartRequest) and leaves_nothing(request, task.replaces):
                self._end_unwritten(task, request)
            else:
                self._commit_one(task, task.state)

    def failed(self, task: RequestTask, error: CarryError) -> None:
        """A task could not be run."""
        self._end(task, error)

    # Commit what was run, and answer.

    def _commit_one(self, task: RequestTask, state: bytes) -> None:
        header, data = written(task, state)
        write = header, data, task.replaces
        self.committer.put([write], partial(self._answer, [task]))

    def _commit_alike(
        self, tasks: list[RequestTask], states: np.ndarray, outputs: np.ndarray
    ) -> None:
        """Commit a whole batch of tasks that differ in nothing but their values."""
        bases = [task.base for task in tasks]
        steps = [task.queue.step for task in tasks]
        requests: list[StepRequest] = [task.request for task in tasks]  # type: ignore[misc]  # are alike
        counts = [request.observations.num_observed for request in requests]
        digests = [request.digest for request in requests]
        data = stepped_alike(bases, steps, counts, digests, states, outputs, time.time())
        num_bytes = outputs.shape[1]
        for task, each in zip(tasks, data, strict=True):
            task.outputs = each[-num_bytes:]
        headers = [base.header for base in bases]
        writes: list[Write] = list(zip(headers, data, bases, strict=True))
        self.committer.put(writes, partial(self._answer, tasks))

    def _answer(
        self, tasks: list[RequestTask], outcomes: Sequence[Record | CarryError | None]
    ) -> None:
        self._count(tasks, outcomes)  # first: a client that has its answer may read the metrics
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, Record):
                if task.timing is not None:
                    task.timing.committed()
                self._committed(task, outcome)
            elif outcome is None:
                self._race_lost(task)
            else:
                self.queues.remember(task.queue, None)
                self._end(task, outcome)
        self.observer.cache_changed(len(self.queues), self.queues.state_bytes)

    def _count(
        self, tasks: list[RequestTask], outcomes: Sequence[Record | CarryError | None]
    ) -> None:
        num_steps: dict[ModelFingerprint, int] = defaultdict(int)
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, Record):
                num_steps[outcome.header.fingerprint] += num_steps_made(task, outcome)
        for each, number in num_steps.items():
            self.observer.steps_committed(each.model, each.version, number)

    def _committed(self, task: RequestTask, record: Record) -> None:
        """Answer a committed task."""
        queue, request = task.queue, task.request
        if (
            task.replaces is queue.record
            and isinstance(request, StepRequest)
            and not request.observations.final
        ):
            step = queue.step + request.observations.num_observed
            self.queues.stepped(queue, record, step)
            task.end(Reply(record, step, task.outputs))
            self.next(queue)
            return
        is_new = task.replaces is None
        self._report_life(task, record, is_new=is_new)
        self.queues.remember(queue, record)
        model = self._registry.find_for_session(record.header)
        worker = model and self._workers.find(model)
        if worker and record.state_bytes == worker.model.layout.row_bytes:
            queue.fits(worker)
        reply = Reply(record, record.step, task.outputs, is_new=is_new, before=task.replaces)
        self._end(task, reply)

    def _end_unwritten(self, task: RequestTask, request: StartRequest) -> None:
        """Answer a start that ends its session, where none was open."""
        count, header = request.observations.num_observed, task.base.header
        self.observer.steps_committed(header.model, header.version, count)
        self.observer.session_created(header.model, header.version)
        self.observer.session_ended(header.model, header.version, "final")
        self._end(task, Reply(task.base, count, task.outputs, is_new=True))

    def _report_life(self, task: RequestTask, record: Record, *, is_new: bool) -> None:
        header = record.header
        if isinstance(task.request, StartRequest) and task.replaces is not None:
            gone = task.replaces.header
            self.observer.session_ended(gone.model, gone.version, "replaced")
            is_new = True
        if is_new:
            self.observer.session_created(header.model, header.version)
        if record.closed:
            self.observer.session_ended(header.model, header.version, record.closed)
        if task.expired is not None:
            gone = task.expired.header
            self.observer.session_ended(gone.model, gone.version, "expired")
        if task.request.operation is not None:
            self.observer.session_operated(header.model, header.version, task.request.operation)

    def _race_lost(self, task: RequestTask) -> None:
        task.num_lost_races += 1
        self.observer.commit_conflicted()
        if task.num_lost_races <= _MAX_LOST_RACES:
            self._decide_from_store(task)
            return
        self._end(
            task,
            ContentionError(
                case("contention", session=task.queue.key.name, num_lost=task.num_lost_races),
                retry_after_s=1,
            ),
        )

    def _end(self, task: RequestTask, outcome: Reply | CarryError) -> None:
        if isinstance(outcome, CarryError):
            self.observer.request_refused(outcome.code)
        task.end(outcome)
        self.next(task.queue)

    def next(self, queue: SessionQueue) -> None:
        """The task at the head of the session queue is over."""
        task = self.queues.next(queue)
        if task is not None:
            assert isinstance(task, RequestTask), "nothing else waits in a session queue"
            # Not called from here, so that a long session queue of refusals does not nest.
            asyncio.get_running_loop().call_soon(self.begin, task)


def _unexpected(error: Exception) -> CarryError:
    problem = StoreUnavailableError(
        case("session-unusable", error=type(error).__name__),
        retry_after_s=1,
    )
    problem.__cause__ = error
    return problem
