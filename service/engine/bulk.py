"""Many requests, of any sessions, under one future.

Rule 1: requests of one session are applied in the order in which they stand; after one that failed
        the later ones of its session are skipped. Other sessions go on.
Rule 2: at most `_WINDOW` of them are under way at a time, so one caller cannot fill the queues.
Rule 3: every request gets exactly one outcome; the future is done when all have theirs. If the
        caller leaves, what has not begun is dropped.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

from service.engine.lanes import Lane
from service.engine.requests import SessionRequest
from service.engine.session import Reply
from service.engine.turn import Turn
from service.errors import CarryError, SkippedError
from service.stores.record import Key

_WINDOW = 1024

Outcome: TypeAlias = Reply | CarryError


class Bulk:
    """Owned by whoever awaits `future`."""

    def __init__(
        self,
        requests: Sequence[tuple[Key, SessionRequest]],
        future: "asyncio.Future[list[Outcome]]",
        deadline: float,
        lane_of: Callable[[Key], Lane],
        join: Callable[[Turn], None],
    ) -> None:
        self.future = future
        self.failed: set[Key] = set()
        self._requests = requests
        self._deadline = deadline
        self._lane_of = lane_of
        self._join = join
        self._outcomes: list[Outcome | None] = [None] * len(requests)
        self._num_begun = 0
        self._num_left = len(requests)
        self._is_begin_due = False

    def begin(self) -> None:
        """Take up as many as may be under way."""
        self._is_begin_due = False
        if not self._requests:
            self.future.set_result([])
        end = min(len(self._requests), self._num_begun + self._room())
        while self._num_begun < end and not self.future.done():
            place, self._num_begun = self._num_begun, self._num_begun + 1
            key, request = self._requests[place]
            turn = BulkTurn(self._lane_of(key), request, self.future, self._deadline)
            turn.bulk, turn.place = self, place
            try:
                self._join(turn)
            except CarryError as error:
                self.take(place, error)

    def take(self, place: int, outcome: Outcome) -> None:
        """The outcome of one request; only the first counts."""
        if self._outcomes[place] is not None or self.future.done():
            return
        self._outcomes[place] = outcome
        self._num_left -= 1
        if isinstance(outcome, CarryError):
            self.failed.add(self._requests[place][0])
        if not self._num_left:
            self.future.set_result(self._outcomes)  # type: ignore[arg-type]  # each has its own now
        elif not self._is_begin_due and self._num_begun < len(self._requests):
            # Not from here: this is called from the middle of a group that is being answered.
            self._is_begin_due = True
            self.future.get_loop().call_soon(self.begin)

    def _room(self) -> int:
        num_under_way = self._num_begun - (len(self._requests) - self._num_left)
        return _WINDOW - num_under_way


class BulkTurn(Turn):
    """One request of a bulk; `future` is that of all."""

    __slots__ = ("bulk", "place")

    bulk: Bulk
    place: int

    def is_wanted(self) -> bool:
        if self.lane.key in self.bulk.failed:
            self.end(
                SkippedError(
                    f"an earlier step of session {self.lane.key.name!r} in this request failed, so"
                    " this one was not applied: mend that one and send both again"
                )
            )
            return False
        return not self.future.done()

    def end(self, outcome: Outcome) -> None:
        self.bulk.take(self.place, outcome)
