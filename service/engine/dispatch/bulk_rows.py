"""A bulk of single rows, in which those travel as groups that can."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from service.engine.dispatch.bulk import BulkRequests, BulkTask
from service.engine.dispatch.row_batch import RowBatch
from service.engine.dispatch.session_queues import SessionQueue
from service.engine.inference.admission import Admission
from service.engine.inference.refusals import too_late
from service.engine.inference.worker import Worker
from service.engine.session.requests import Observations, StepRequest
from service.engine.session.rules import Reply
from service.engine.timing import RequestTiming
from service.errors import CarryError, QueueFullError
from service.stores.record.record import Key, Record

if TYPE_CHECKING:
    from service.engine.dispatch.dispatcher import Dispatcher

_MAX_ROWS = 64


class RowRequests(Sequence[tuple[Key, StepRequest]]):
    """A step of one row for each key, rows `[N, F]`; as a request only where one is asked for."""

    def __init__(self, keys: Sequence[Key], rows: np.ndarray, steps: Sequence[int | None]) -> None:
        self.keys = keys
        self.rows = rows
        self.steps = steps

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: Any) -> Any:  # noqa: ANN401 -- never sliced: an int, a request
        observations = Observations(rows=self.rows[place : place + 1])
        return self.keys[place], StepRequest(observations, self.steps[place])


class BulkRows(BulkRequests):
    """A bulk of single rows, in which those travel together that can."""

    _requests: RowRequests

    def _begin_some(self, places: range) -> None:
        groups: dict[Worker, BulkBatch] = {}
        keys, steps = self._requests.keys, self._requests.steps
        queue_of, num_values = self._queues.queue_of, self._requests.rows.shape[1]
        for place in places:
            queue, step = queue_of(keys[place]), steps[place]
            worker = queue.worker
            if (
                worker is None
                or not queue.is_plain
                or queue.head is not None
                or (step is not None and step != queue.step)
                or (self.failed and queue.key in self.failed)
            ):
                self._begin_one(place)
                continue
            group = groups.get(worker)
            if group is None:
                group = groups[worker] = BulkBatch(
                    self, self._dispatcher, worker, self._requests.rows
                )
            if not group.head(queue, num_values):
                self._begin_one(place)
                continue
            group.places.append(place)
            if len(group.queues) == _MAX_ROWS:
                groups.pop(worker).submit()
        for group in groups.values():
            group.submit()

    def took_group(self, places: list[int], steps: list[int], outputs: list[bytes]) -> None:
        """The outcomes of rows that were committed together."""
        outcomes, number = self._outcomes, 0
        for place, step, each in zip(places, steps, outputs, strict=True):
            if place not in outcomes.errors:  # told already where its deadline passed
                outcomes.steps[place] = step
                outcomes.outputs[place] = each
                number += 1
        self._took(number)

    def alone(self, queue: SessionQueue, place: int) -> None:
        """Begin again, alone and at the head of its queue, a row that could not go with others."""
        _, request = self._requests[place]
        task = BulkTask(queue, request, self.future, self.deadline, self.timing)
        task.bulk, task.place = self, place
        queue.head = task
        self._dispatcher.begin(task)


class BulkBatch(RowBatch):
    """Rows of one bulk, at most `_MAX_ROWS`; `places` are theirs in it."""

    __slots__ = ("_bulk", "_rows", "places")

    def __init__(
        self, bulk: BulkRows, dispatcher: "Dispatcher", worker: Worker, rows: np.ndarray
    ) -> None:
        super().__init__(dispatcher, worker)
        self._bulk = bulk
        self._rows = rows
        self.deadline = bulk.deadline
        self.places: list[int] = []

    def submit(self) -> None:
        try:
            self.worker.submit_group(self)
            for timing in self.timings:
                timing.queued(self.worker.model)
        except QueueFullError as error:
            self.fail(error)

    @property
    def futures(self) -> "Iterable[asyncio.Future[Any]]":
        return (self._bulk.future,)

    @property
    def num_pieces(self) -> int:
        return 1

    @property
    def admission(self) -> Admission:
        return self._bulk.admission

    @property
    def timings(self) -> Collection[RequestTiming]:
        return () if self._bulk.timing is None else (self._bulk.timing,)

    @property
    def is_full(self) -> bool:
        return True  # nothing comes to it any more

    def drop_unwanted(self, now: float) -> int:
        num_rows = self.num_rows
        if not (self._bulk.future.done() or now > self.deadline):
            return 0
        self.fail(too_late())
        self.queues.clear()
        return num_rows

    def values(self) -> np.ndarray:
        return self._rows[self.places]

    def answer(self, place: int, outcome: Reply | CarryError) -> None:
        self._bulk.take(self.places[place], outcome)

    def answer_committed(self, places: list[int], records: list[Record], steps: list[int]) -> None:
        num_bytes = self.worker.model.runner.outputs.step_bytes
        outputs = [record.data[-num_bytes:] for record in records]
        for timing in self.timings:
            timing.committed()
        self._bulk.took_group([self.places[place] for place in places], steps, outputs)

    def alone(self, place: int) -> None:
        self._bulk.alone(self.queues[place], self.places[place])

    def forget(self, place: int) -> None:
        super().forget(place)
        del self.places[place]
