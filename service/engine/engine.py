"""The engine: what a process serves, from start to close.

The path of a step continues in `dispatch`: decided, run in its model's worker, committed, answered.
Everything runs on the event loop; only the graph and the store leave it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import structlog

from service.engine.dispatch.bulk import Bulk, BulkRequests, Outcomes
from service.engine.dispatch.bulk_rows import BulkRows, RowRequests
from service.engine.dispatch.bulk_runs import BulkRuns, RunRequests, by_session, joined
from service.engine.dispatch.callback_future import CallbackFuture, OnEnd
from service.engine.dispatch.dispatcher import Dispatcher
from service.engine.dispatch.predictions import OnPrediction, Predictions
from service.engine.dispatch.request_task import RequestTask
from service.engine.dispatch.session_queues import SessionQueue, SessionQueues
from service.engine.dispatch.step_batch import is_single
from service.engine.dispatch.watch import Watch
from service.engine.graph.runner import BatchResult
from service.engine.inference.admission import QueueBounds
from service.engine.inference.job import Job
from service.engine.inference.worker import Worker
from service.engine.inference.worker_pool import Workers
from service.engine.limits import EngineLimits
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.registry import Registry
from service.engine.observer import NullObserver, Observer
from service.engine.session.refusals import require_live, session_not_found
from service.engine.session.requests import Observations, SessionRequest
from service.engine.session.rules import Reply
from service.engine.timing import CURRENT, RequestTiming
from service.errors import CarryError, DeadlineError, DrainingError, ModelFailedError
from service.stores.base import Expired, Store
from service.stores.record.record import Key, PackedOutputs, Record
from service.wordings import case

log = structlog.get_logger()

_SWEEP_EVERY_S = 10.0
_SWEEP_AT_ONCE = 1000
_DEADLINES_EVERY_S = 0.25


class Engine:
    """Owns the workers, the committer and the sweeper; `start` and `close` bound their lives."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        limits: EngineLimits | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.registry = registry
        self.store = store
        self.limits = limits or EngineLimits()
        self.is_draining = False
        self.failure: BaseException | None = None
        self._observer = observer or NullObserver()
        self._queues = SessionQueues(self.limits.cache_sessions)
        self.workers = Workers(
            registry, self._observer, self._new_worker, self._forget_worker, self._wait_for_answers
        )
        self._dispatcher = Dispatcher(registry, self.workers, store, self._queues, self._observer)
        self._predictions = Predictions(self.workers, self._observer, self.limits.request_timeout_s)
        self._loop: asyncio.AbstractEventLoop
        self._background: list[asyncio.Task[None]] = []
        self._bulks: set[Bulk] = set()
        self._give_up_timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Begin to serve, on the loop that runs now."""
        # Kept, because asking for it takes a system call, which a step would feel.
        self._loop = asyncio.get_running_loop()
        self.workers.start()
        endless = [self._dispatcher.committer.run(), self._sweep_forever(), self._watch_deadlines()]
        self._background = [asyncio.create_task(coroutine) for coroutine in endless]
        for running in self._background:
            running.add_done_callback(self._on_task_ended)

    def stop_within(self, grace_s: float) -> None:
        """Accept and finish work for `grace_s`; then answer the rest by an error, accept no more.

        So every transport ends what it answers as it ends anything that fails, before its
        connections are cut. Called again, nothing changes; `close` ends it.
        """
        if self._give_up_timer is None:
            self._give_up_timer = self._loop.call_later(grace_s, self._give_up)

    async def close(self, grace_s: float = 10.0) -> None:
        """Refuse new work, finish what was accepted, stop the tasks. The store stays open."""
        self.is_draining = True
        if waiting := self._under_way():
            await asyncio.wait(waiting, timeout=grace_s)
        if self._give_up_timer is not None:
            self._give_up_timer.cancel()
        self._give_up()
        for running in self._background:
            running.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.workers.close()

    def submit(
        self,
        key: Key,
        request: SessionRequest,
        timing: RequestTiming | None = None,
        on_end: OnEnd | None = None,
        queue: SessionQueue | None = None,
    ) -> "asyncio.Future[Reply]":
        """Open, step, preview or close a session, after whatever came for it before.

        To be awaited; cancelled, it is dropped if it has not begun. It raises CarryError, with
        nothing of the request applied, unless the error says that this is not known. With `on_end`
        that alone is told of the outcome, but not before this has returned. `queue` is that of the
        session where it was looked up already, by `cached_queue`.
        """
        future: asyncio.Future[Any] = (
            asyncio.Future(loop=self._loop)
            if on_end is None
            else CallbackFuture(on_end, self._loop)
        )
        deadline = time.monotonic() + self.limits.request_timeout_s
        try:
            if self.is_draining:
                self._refuse_if_draining()
            queue = queue or self._queues.queue_of(key)
            timing = timing or CURRENT.get()
            if not (
                is_single(request, queue)
                and self._dispatcher.gather(queue, request, future, deadline, timing)
            ):
                self._dispatcher.join(RequestTask(queue, request, future, deadline, timing))
        except CarryError as error:
            if isinstance(future, CallbackFuture):
                future.refuse(error)
            else:
                future.set_exception(error)
        return future

    def submit_many(
        self, requests: Sequence[tuple[Key, SessionRequest]]
    ) -> "asyncio.Future[Outcomes]":
        """As `submit` for each, in order within a session.

        An error ends only its own request, and skips the later ones of its session. The deadline
        is that of one request, for all of them.
        """
        return self._begin_bulk(BulkRequests, requests)

    def step_rows(
        self,
        keys: Sequence[Key],
        rows: np.ndarray,
        steps: Sequence[int | None],
        max_run_rows: int = 256,
    ) -> "asyncio.Future[Outcomes]":
        """As `submit_many` of a step of one row for each key: rows `[N, F]`, float32.

        Rows of one session are applied as runs of at most `max_run_rows`, each one request.
        """
        single, several = by_session(keys)
        if not several:
            return self._begin_bulk(BulkRows, RowRequests(keys, rows, steps))
        if not single:
            return self._begin_bulk(BulkRuns, RunRequests(keys, rows, steps, max_run_rows))

        def begin(places: list[int]) -> "asyncio.Future[Outcomes]":
            of_places = [keys[place] for place in places], rows[places]
            said = [steps[place] for place in places]
            return self.step_rows(*of_places, said, max_run_rows)

        return asyncio.ensure_future(joined([(each, begin(each)) for each in (single, several)]))

    def _begin_bulk(
        self,
        kind: Callable[..., Bulk],
        requests: object,
    ) -> "asyncio.Future[Outcomes]":
        self._refuse_if_draining()
        future: asyncio.Future[Outcomes] = self._loop.create_future()
        deadline = time.monotonic() + self.limits.request_timeout_s
        bulk = kind(requests, future, deadline, self._queues, self._dispatcher)
        self._bulks.add(bulk)
        future.add_done_callback(lambda _: self._bulks.discard(bulk))
        bulk.begin()
        return future

    async def predict(
        self,
        model: LoadedModel,
        instances: list[tuple[Observations, int | None]],
        emit: Literal["last", "all"] | None = None,
    ) -> list[PackedOutputs]:
        """Answer each instance (observations, start) from a fresh state; nothing is kept.

        Without `emit` as the task has it: a tagger answers every step, the others the last.
        """
        self._refuse_if_draining()
        return await self._predictions.predict(model, instances, emit)

    def predict_row(
        self,
        model: LoadedModel,
        row: tuple[Observations, int | None],
        emit: Literal["last", "all"],
        timing: RequestTiming | None,
        on_end: OnPrediction,
    ) -> "asyncio.Future[PackedOutputs]":
        """As `predict` of one instance without text; `on_end` receives what became of it."""
        self._refuse_if_draining()
        return self._predictions.submit(model, *row, emit, timing, on_end)

    async def read(self, key: Key) -> Record:
        """The session as the store holds it now.

        Raises:
            CarryError: not found, expired or closed.
        """
        try:
            found = await self._found(key)
            require_live(found, await self.store.now())
        except CarryError as error:
            self._observer.request_refused(error.code)
            raise
        return found

    async def model_of(self, key: Key, *, is_fresh: bool = False) -> LoadedModel:
        """The model that a session was opened with.

        From the cache, which may be wrong, unless the answer must be fresh or is not there.

        Raises:
            CarryError: the session is not found, or its model is not loaded any more.
        """
        cached = None if is_fresh else self._queues.cached(key)
        if cached and (model := self.registry.find_for_session(cached.header)):
            return model
        try:
            return self.registry.get_for_session((await self._found(key)).header)
        except CarryError as error:  # the request ends here, before a task of it could be counted
            self._observer.request_refused(error.code)
            raise

    def watch(self, key: Key, found: Record, after_step: int, poll_s: float) -> Watch:
        """What happens to a session from a step on, for a listener to iterate over."""
        return Watch(self._queues, self.store, key, found, after_step, poll_s)

    def cached_queue(self, key: Key) -> SessionQueue | None:
        """The queue of a session, if it was seen here, for a step that follows at once."""
        return self._queues.cached_queue(key)

    def cached_model(self, key: Key) -> LoadedModel | None:
        """The model that a session is believed to belong to; None where nothing is known here."""
        return self._queues.cached_model(key)

    def cached_ring_size(self, key: Key) -> int | None:
        """How many replies a session keeps, where its model is known here as well."""
        record = self._queues.cached(key)
        return None if record is None else record.header.ring_size

    def refuse_if_full(self, model: LoadedModel) -> None:
        """Raise QueueFullError where work for this model would be refused, before it is decoded."""
        self.workers.of(model).refuse_if_full()

    async def _found(self, key: Key) -> Record:
        found = await self.store.load(key)
        if found is None:
            raise session_not_found(key)
        return found

    def _new_worker(self, model: LoadedModel) -> Worker:
        limits = self.limits
        return Worker(
            model,
            model.bounded(limits.batch),
            QueueBounds(limits.max_waiting_jobs, limits.max_waiting_steps, limits.max_queue_s),
            self._observer,
            self._on_done,
            self._on_failed,
            self._on_defect,
        )

    def _on_done(self, jobs: list[Job], rows: list[int], result: BatchResult) -> None:
        """Jobs of one batch are through: tasks of sessions, and predictions without one."""
        tasks = [job for job in jobs if isinstance(job, RequestTask)]
        if len(tasks) == len(jobs):
            self._dispatcher.ran(tasks, rows, result)
            return
        places = [row for job, row in zip(jobs, rows, strict=True) if isinstance(job, RequestTask)]
        self._dispatcher.ran(tasks, places, result)
        for job, row in zip(jobs, rows, strict=True):
            if not isinstance(job, RequestTask) and not job.future.done():
                job.future.set_result(result.last_of(row) if job.remaining else job.outputs)

    def _on_failed(self, job: Job, error: CarryError) -> None:
        if isinstance(job, RequestTask):
            self._dispatcher.failed(job, error)
        else:
            job.fail(error)

    def _under_way(self) -> set[asyncio.Future[Any]]:
        tasks = {future for task in self._queues.tasks() for future in task.futures}
        return tasks | self._predictions.under_way

    async def _forget_worker(self, worker: Worker) -> None:
        await self._dispatcher.forget_worker(worker)

    async def _wait_for_answers(self) -> None:
        """Until everything that is under way now is answered, for as long as that may take."""
        if waiting := self._under_way() | {bulk.future for bulk in self._bulks}:
            await asyncio.wait(waiting, timeout=self.limits.request_timeout_s)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            try:
                while len(await self._sweep()) == _SWEEP_AT_ONCE:
                    pass
            except Exception as error:  # the boundary: a store that is away now may be back later
                reason = error.detail if isinstance(error, CarryError) else type(error).__name__
                log.warning("sweep failed, will try again", reason=reason)

    async def _sweep(self) -> list[Expired]:
        swept = await self.store.sweep(_SWEEP_AT_ONCE)
        for each in swept:
            self._queues.forget(each.key)
            if not each.closed:
                self._observer.session_ended(each.model, each.version, "expired")
        await asyncio.sleep(0)  # a store in memory gives way to nobody by itself
        return swept

    async def _watch_deadlines(self) -> None:
        """Answer requests that wait past their deadline, for a store that hangs as well."""
        while True:
            await asyncio.sleep(min(_DEADLINES_EVERY_S, self.limits.request_timeout_s))
            self._end_late_tasks()

    def _end_late_tasks(self) -> None:
        """A call of its own, so that the last task, and its model, is not held between two."""
        now = time.monotonic()
        for task in self._queues.tasks():
            if task.deadline < now:
                task.end(_too_late())

    def _on_task_ended(self, ended: asyncio.Task[None]) -> None:
        """An endless task ends only by our own defect."""
        if not ended.cancelled():
            self._on_defect(ended.exception() or RuntimeError("an endless task ended"))

    def _on_defect(self, error: BaseException) -> None:
        """Our own code failed where it must not: nobody may wait for it, and we say so."""
        self.failure = self.failure or error
        self.is_draining = True
        log.critical("engine stopped", exc_info=self.failure)
        self._answer_all(
            ModelFailedError(
                case("outcome-unknown", what="the server failed and must be restarted")
            )
        )

    def _give_up(self) -> None:
        self.is_draining = True
        self._answer_all(
            DrainingError(
                case("outcome-unknown", what="this server is shutting down"),
                retry_after_s=1,
            )
        )

    def _answer_all(self, error: CarryError) -> None:
        for task in list(self._queues.tasks()):
            task.end(error)
        for bulk in list(self._bulks):
            bulk.refuse(error)
        for future in list(self._predictions.under_way):
            if not future.done():
                future.set_exception(error)
        for worker in self.workers:
            worker.refuse_all(error)

    def _refuse_if_draining(self) -> None:
        if self.is_draining:
            raise DrainingError(
                "this server is shutting down; nothing was applied: repeat the request",
                retry_after_s=1,
            )


def _too_late() -> DeadlineError:
    return DeadlineError(
        case("outcome-unknown", what="the request waited longer than its deadline"),
        retry_after_s=1,
    )
