"""Many requests, of any sessions, under one future.

Rule 1: requests of one session are applied in the order in which they stand; after one that failed
        the later ones of its session are skipped. Other sessions go on.
Rule 2: at most `_WINDOW` of them are under way at a time, so one caller cannot fill the queues.
Rule 3: a queue that has let one of them in lets the others in as well: a bulk does not count
        against itself, and what it adds to a queue is bounded by rule 2.
Rule 4: every request gets exactly one outcome; the future is done when all have theirs. If the
        caller leaves, what has not begun is dropped.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.engine.dispatch.request_task import RequestTask
from service.engine.inference.admission import Admission
from service.engine.session.requests import SessionRequest
from service.engine.session.rules import Reply
from service.engine.timing import CURRENT
from service.errors import CarryError, SkippedError
from service.stores.record.record import Key, PackedOutputs, Record

if TYPE_CHECKING:  # they know each other
    from service.engine.dispatch.dispatcher import Dispatcher
    from service.engine.dispatch.session_queues import SessionQueues

_WINDOW = 1024


@dataclass(slots=True)
class Outcomes:
    """What became of each request, by its place; those that failed are in `errors`."""

    steps: list[int]
    outputs: list[PackedOutputs]
    errors: dict[int, CarryError] = field(default_factory=dict)
    replayed: set[int] = field(default_factory=set)
    records: dict[int, Record] = field(default_factory=dict)
    """The sessions after them, of those that did not travel in a group."""


class Bulk(ABC):
    """Owned by the caller that awaits `future`."""

    def __init__(
        self,
        num_outcomes: int,
        future: "asyncio.Future[Outcomes]",
        deadline: float,
        queues: "SessionQueues",
        dispatcher: "Dispatcher",
    ) -> None:
        self.future = future
        self.deadline = deadline
        self.failed: set[Key] = set()
        self.timing = CURRENT.get()
        self.admission = Admission()
        self._queues = queues
        self._dispatcher = dispatcher
        self._outcomes = Outcomes([-1] * num_outcomes, [b""] * num_outcomes)
        self._num_left = num_outcomes
        self._is_begin_due = False

    @abstractmethod
    def begin(self) -> None:
        """Take up as many as may be under way."""

    @abstractmethod
    def take(self, place: int, outcome: Reply | CarryError) -> None:
        """The outcome of one request; only the first counts."""

    @abstractmethod
    def refuse(self, error: CarryError) -> None:
        """End every request that has no outcome yet."""

    @property
    @abstractmethod
    def _has_more(self) -> bool:
        """Whether something is to be begun."""

    def _took(self, number: int) -> None:
        self._num_left -= number
        if self.future.done():
            return
        if not self._num_left:
            self.future.set_result(self._outcomes)
        elif self._has_more and not self._is_begin_due:
            # Not from here: this is called from the middle of a group that is being answered.
            self._is_begin_due = True
            self.future.get_loop().call_soon(self.begin)


class BulkRequests(Bulk):
    """A request for each outcome."""

    def __init__(
        self,
        requests: Sequence[tuple[Key, SessionRequest]],
        future: "asyncio.Future[Outcomes]",
        deadline: float,
        queues: "SessionQueues",
        dispatcher: "Dispatcher",
    ) -> None:
        super().__init__(len(requests), future, deadline, queues, dispatcher)
        self._requests = requests
        self._num_begun = 0

    def begin(self) -> None:
        self._is_begin_due = False
        if not self._requests and not self.future.done():
            self.future.set_result(self._outcomes)
        num_under_way = self._num_begun - (len(self._requests) - self._num_left)
        first, last = self._num_begun, self._num_begun + _WINDOW - num_under_way
        self._num_begun = min(last, len(self._requests))
        if not self.future.done():
            self._begin_some(range(first, self._num_begun))

    def take(self, place: int, outcome: Reply | CarryError) -> None:
        outcomes = self._outcomes
        if outcomes.steps[place] >= 0 or place in outcomes.errors:
            return
        if isinstance(outcome, CarryError):
            outcomes.errors[place] = outcome
            self.failed.add(self._requests[place][0])
        else:
            outcomes.steps[place] = outcome.step
            outcomes.outputs[place] = outcome.outputs
            outcomes.records[place] = outcome.record
            if outcome.is_replay:
                outcomes.replayed.add(place)
        self._took(1)

    def refuse(self, error: CarryError) -> None:
        self._num_begun = len(self._requests)
        for place in range(len(self._requests)):
            self.take(place, error)

    def _begin_some(self, places: range) -> None:
        for place in places:
            self._begin_one(place)

    def _begin_one(self, place: int) -> None:
        key, request = self._requests[place]
        queue = self._queues.queue_of(key)
        task = BulkTask(queue, request, self.future, self.deadline, self.timing)
        task.bulk, task.place = self, place
        try:
            self._dispatcher.join(task)
        except CarryError as error:
            self.take(place, error)

    @property
    def _has_more(self) -> bool:
        return self._num_begun < len(self._requests)


class BulkTask(RequestTask):
    """One request of a bulk; `future` is that of all."""

    __slots__ = ("bulk", "place")

    bulk: Bulk
    place: int

    @property
    def admission(self) -> Admission:  # type: ignore[override]  # None of other tasks
        return self.bulk.admission

    def is_wanted(self) -> bool:
        if self.queue.key in self.bulk.failed:
            self.end(skipped(self.queue.key))
            return False
        return not self.future.done()

    def end(self, outcome: Reply | CarryError) -> None:
        self.bulk.take(self.place, outcome)


def skipped(key: Key) -> SkippedError:
    """What is answered to a step behind one that failed."""
    return SkippedError(
        f"an earlier step of session {key.name!r} in this request failed, so this one was not"
        " applied: correct that one and send both again"
    )
