"""Single rows of many sessions that travel together, without an object for each.

Rule 1: a row is in a group only if its session is idle, cached, plain and at the step that the row
        names. Any other row goes alone, as a task; so does one whose commit was refused.
Rule 2: a group heads the queues of its sessions until it is committed: whatever comes for them
        waits behind it.
Rule 3: a group is one batch of the graph and one part of a group commit.

Where the rows come from, and who waits for them, is said by `bulk_rows` and `step_batch`.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from typing import Any, Protocol

import numpy as np

from service.engine.dispatch.group_commit import Committer
from service.engine.dispatch.request_task import RequestTask
from service.engine.dispatch.session_queues import SessionQueue, SessionQueues
from service.engine.graph.runner import Batch, BatchResult
from service.engine.inference.admission import Admission
from service.engine.inference.worker import Worker
from service.engine.observer import Observer
from service.engine.session.inputs import first_time_s
from service.engine.session.requests import digests_of_rows
from service.engine.session.rules import Reply, stepped_alike
from service.engine.timing import RequestTiming
from service.errors import CarryError, InvalidInputError
from service.stores.base import Write
from service.stores.record.record import STATE_AT, Record


class BatchOwner(Protocol):
    """What a group asks of the dispatcher that made it."""

    @property
    def queues(self) -> SessionQueues: ...

    @property
    def committer(self) -> Committer: ...

    @property
    def observer(self) -> Observer: ...

    def begin(self, task: RequestTask) -> None:
        """Begin a task that heads its queue."""

    def next(self, queue: SessionQueue) -> None:
        """The head of the queue is over: begin what waits behind it."""


class RowBatch(ABC):
    """One batch of single rows, from `head` to the answers."""

    __slots__ = ("_bases", "_first_times", "deadline", "dispatcher", "queues", "worker")

    deadline: float
    """Until when its rows may be waited for."""

    def __init__(self, dispatcher: BatchOwner, worker: Worker) -> None:
        self.dispatcher = dispatcher
        self.worker = worker
        self.queues: list[SessionQueue] = []
        self._bases: list[Record] = []
        self._first_times: list[int] = []

    # Said by each kind; those without a word here, by `group.Group`.

    @property
    @abstractmethod
    def futures(self) -> "Iterable[asyncio.Future[Any]]":
        """Whoever waits for the rows."""

    @property
    @abstractmethod
    def num_pieces(self) -> int: ...

    @property
    @abstractmethod
    def admission(self) -> Admission | None: ...

    @property
    @abstractmethod
    def timings(self) -> Collection[RequestTiming]: ...

    @property
    @abstractmethod
    def is_full(self) -> bool: ...

    @abstractmethod
    def drop_unwanted(self, now: float) -> int: ...

    @abstractmethod
    def values(self) -> np.ndarray:
        """The rows, `[N, F]`, or packed tensors, bytes `[N, n]`."""

    @property
    def emits(self) -> Iterable[str]:
        """Which answers each row wants; to one step, `last` and `all` are the same answer."""
        return repeat("last")

    @abstractmethod
    def answer(self, place: int, outcome: Reply | CarryError) -> None:
        """Answer a row, once."""

    @abstractmethod
    def answer_committed(self, places: list[int], records: list[Record], steps: list[int]) -> None:
        """Answer all rows that were committed."""

    @abstractmethod
    def alone(self, place: int) -> None:
        """Begin again, alone and at the head of its queue, a row that could not go with others."""

    # The same for all.

    def head(self, queue: SessionQueue, width: int, *, is_packed: bool = False) -> bool:
        """Head the queue of a row; False, with nothing done, if it does not fit the model.

        `is_packed`: it is an observation of tensors, of so many bytes.
        """
        base, model = queue.record, self.worker.model
        if base is None or width != model.row_width:
            return False
        if is_packed is (model.observations is None):
            return False
        if model.time is not None:
            try:
                first_s = first_time_s(model, base.header.start_s, queue.step, 1)
            except InvalidInputError:
                return False
            self._first_times.append(first_s)
        self.dispatcher.queues.begin(queue, self)
        self.queues.append(queue)
        self._bases.append(base)
        return True

    def forget(self, place: int) -> None:
        """Remove a row; its caller lets the session queue go on."""
        del self.queues[place], self._bases[place]
        if self._first_times:
            del self._first_times[place]

    @property
    def num_rows(self) -> int:
        return len(self.queues)

    def stage(self) -> Batch:
        """The batch that these rows are."""
        model = self.worker.model
        end = STATE_AT + model.layout.row_bytes
        states = [base.data[STATE_AT:end] for base in self._bases]
        ones = [1] * len(states)
        values = self.values()[:, None]
        return model.runner.stage(values, states, ones, self._first_times, [0] * len(states))

    def ran(self, result: BatchResult) -> None:
        """Commit all rows at once."""
        steps = [queue.step for queue in self.queues]
        counts = [1] * len(steps)
        digests = digests_of_rows(self.values(), self.emits)
        data = stepped_alike(
            self._bases, steps, counts, digests, result.states, result.last, time.time()
        )
        headers = [base.header for base in self._bases]
        writes: list[Write] = list(zip(headers, data, self._bases, strict=True))
        self.dispatcher.committer.put(writes, self._committed)

    def refuse(self, places: list[int], error: CarryError) -> None:
        """Rows that were not applied leave the group."""
        for place in reversed(places):
            self.answer(place, error)
            self.dispatcher.next(self.queues[place])
            self.forget(place)

    def fail(self, error: CarryError) -> None:
        """None of the rows was applied."""
        for place, queue in enumerate(self.queues):
            self.answer(place, error)
            self.dispatcher.next(queue)

    def end(self, outcome: Reply | CarryError) -> None:
        """Answer all rows that have no answer yet; the group still ends by itself."""
        for place in range(len(self.queues)):
            self.answer(place, outcome)

    def _committed(self, outcomes: Sequence[Record | CarryError | None]) -> None:
        dispatcher, queues = self.dispatcher, self.dispatcher.queues
        places, records, steps = [], [], []
        for place, (queue, kept) in enumerate(zip(self.queues, outcomes, strict=True)):
            if isinstance(kept, Record):
                step = queue.step + 1
                queues.stepped(queue, kept, step)
                places.append(place)
                records.append(kept)
                steps.append(step)
                dispatcher.next(queue)
            elif kept is None:  # another writer was first
                queues.remember(queue, None)
                self.alone(place)
            else:
                queues.remember(queue, None)
                self.answer(place, kept)
                dispatcher.next(queue)
        model = self.worker.model
        dispatcher.observer.steps_committed(model.name, model.version, len(places))
        self.answer_committed(places, records, steps)
