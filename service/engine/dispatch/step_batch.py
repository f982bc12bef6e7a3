"""Single steps, each of a client of its own, that wait for one model together.

Rule 1: a group is open until its batch begins, and takes up what comes meanwhile. There is no
        timer: an idle worker begins it at once.
Rule 2: each step has its own client and deadline. One whose client left, or whose deadline passed,
        is dropped before the batch begins, and the others go on.
"""

import asyncio
from collections.abc import Collection
from typing import TypeGuard

import numpy as np

from service.engine.dispatch.request_task import RequestTask
from service.engine.dispatch.row_batch import BatchOwner, RowBatch
from service.engine.dispatch.session_queues import SessionQueue
from service.engine.graph.runner import Batch
from service.engine.inference.refusals import too_late
from service.engine.inference.worker import Worker
from service.engine.session.requests import Observations, StepRequest
from service.engine.session.rules import Reply
from service.engine.timing import RequestTiming
from service.errors import CarryError, QueueFullError
from service.stores.record.record import Record


def is_single(request: object, queue: SessionQueue) -> TypeGuard[StepRequest]:
    """Whether a request is one row, or one observation of tensors, for a session that is idle,
    cached, plain, and where it says; what says its time is compared with that of the session,
    alone."""
    return (
        queue.is_plain
        and queue.head is None
        and type(request) is StepRequest
        and (request.step == queue.step or request.step is None)
        and not request.is_preview
        and request.key is None
        and (row := row_of(request.observations)) is not None
        and len(row) == 1
        and not request.observations.final
        and request.observations.time_s is None
        and not request.observations.constants
    )


def row_of(observations: Observations) -> np.ndarray | None:
    """Rows `[T, F]`, or packed tensors, bytes `[T, n]`; None of a text."""
    return observations.tensors if observations.rows is None else observations.rows


class StepBatch(RowBatch):
    """Steps that wait for their batch, as many as make good use of the graph."""

    __slots__ = ("_deadlines", "_requests", "_timings", "_values", "futures", "is_open")

    def __init__(self, dispatcher: BatchOwner, worker: Worker) -> None:
        super().__init__(dispatcher, worker)
        self.is_open = True
        self.futures: list[asyncio.Future[Reply]] = []
        self._requests: list[StepRequest] = []
        self._deadlines: list[float] = []
        self._timings: dict[asyncio.Future[Reply], RequestTiming] = {}
        self._values: np.ndarray | None = None

    def add(
        self,
        queue: SessionQueue,
        request: StepRequest,
        future: "asyncio.Future[Reply]",
        deadline: float,
        timing: RequestTiming | None = None,
    ) -> bool:
        """Take a step up; False, with nothing done, if it does not fit the model.

        Raises:
            QueueFullError: it does not fit the queue; nothing of it was done.
        """
        observations = request.observations
        row = row_of(observations)
        is_packed = observations.rows is None
        if row is None or not self.head(queue, row.shape[1], is_packed=is_packed):
            return False
        num_rows = len(self.queues)
        try:
            self.worker.row_joined(self, is_first=num_rows == 1)
        except QueueFullError:
            RowBatch.forget(self, -1)
            self.dispatcher.next(queue)
            raise
        self.deadline = deadline  # the latest: clients all have the same time
        self.futures.append(future)
        self._requests.append(request)
        self._deadlines.append(deadline)
        if timing is not None:
            self._timings[future] = timing
            timing.queued(self.worker.model)
        if num_rows == self.worker.full_rows:
            self.is_open = False
        return True

    @property
    def num_pieces(self) -> int:
        return len(self.queues)

    @property
    def admission(self) -> None:
        return None  # each row was let in by itself

    @property
    def timings(self) -> Collection[RequestTiming]:
        return self._timings.values()

    @property
    def is_full(self) -> bool:
        return not self.is_open

    def drop_unwanted(self, now: float) -> int:
        waiting = enumerate(zip(self.futures, self._deadlines, strict=True))
        gone = [place for place, (future, until) in waiting if future.done() or now > until]
        if gone:
            self.refuse(gone, too_late())
        return len(gone)

    def stage(self) -> Batch:
        self.is_open = False
        return super().stage()

    def values(self) -> np.ndarray:
        if self._values is None:
            rows = [row_of(request.observations) for request in self._requests]
            self._values = np.concatenate(rows)  # type: ignore[arg-type]  # single steps have rows
        return self._values

    @property
    def emits(self) -> list[str]:
        return [request.emit for request in self._requests]

    def fail(self, error: CarryError) -> None:
        self.is_open = False
        super().fail(error)

    def answer(self, place: int, outcome: Reply | CarryError) -> None:
        future = self.futures[place]
        if future.done():
            return
        if isinstance(outcome, CarryError):
            self.dispatcher.observer.request_refused(outcome.code)
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def answer_committed(self, places: list[int], records: list[Record], steps: list[int]) -> None:
        model = self.worker.model
        num_bytes = model.runner.outputs.step_bytes
        for place, record, step in zip(places, records, steps, strict=True):
            future = self.futures[place]
            if self._timings and future in self._timings:
                self._timings[future].committed()
            if not future.done():  # else the client left; what was committed stays committed
                future.set_result(Reply(record, step, record.data[-num_bytes:], model=model))

    def alone(self, place: int) -> None:
        queue = self.queues[place]
        future = self.futures[place]
        timing = self._timings.get(future)
        task = RequestTask(queue, self._requests[place], future, self._deadlines[place], timing)
        task.num_lost_races = 1
        queue.head = task
        self.dispatcher.observer.commit_conflicted()
        self.dispatcher.begin(task)

    def forget(self, place: int) -> None:
        super().forget(place)
        self._timings.pop(self.futures[place], None)
        for column in (self.futures, self._requests, self._deadlines):
            del column[place]
        self._values = None
