"""Single rows of many sessions that travel together, without an object for each.

Rule 1: a row is in a group only if its session is idle, cached, plain and at the step that the row
        names. Any other row goes alone, as a turn; so does one whose commit was refused.
Rule 2: a group heads the lanes of its sessions until it is committed: whatever comes for them
        waits behind it.
Rule 3: a group is one batch of the graph and one part of a group commit.

Where the rows come from, and who waits for them, is said by `bulk_rows` and `step_group`.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from service.engine.dispatch.group_commit import Committer
from service.engine.dispatch.request_task import Turn
from service.engine.dispatch.session_queues import Lane, Lanes
from service.engine.graph.runner import Batch, BatchResult
from service.engine.inference.admission import Admission
from service.engine.inference.worker import Worker
from service.engine.observer import Observer
from service.engine.session.inputs import first_time_s
from service.engine.session.requests import digests_of_rows
from service.engine.session.rules import Reply, stepped_alike
from service.engine.timing import Trail
from service.errors import CarryError, InvalidInputError
from service.stores.base import Write
from service.stores.record.record import STATE_AT, Record


class GroupOwner(Protocol):
    """What a group asks of the dispatcher that made it."""

    @property
    def lanes(self) -> Lanes: ...

    @property
    def committer(self) -> Committer: ...

    @property
    def observer(self) -> Observer: ...

    def begin(self, turn: Turn) -> None:
        """Begin a turn that heads its lane."""

    def next(self, lane: Lane) -> None:
        """The head of the lane is over: begin what waits behind it."""


class RowGroup(ABC):
    """One batch of single rows, from `head` to the answers."""

    __slots__ = ("_bases", "_first_times", "deadline", "lanes", "turns", "worker")

    deadline: float
    """Until when its rows may be waited for."""

    def __init__(self, turns: GroupOwner, worker: Worker) -> None:
        self.turns = turns
        self.worker = worker
        self.lanes: list[Lane] = []
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
    def trails(self) -> Collection[Trail]: ...

    @property
    @abstractmethod
    def is_full(self) -> bool: ...

    @abstractmethod
    def drop_unwanted(self, now: float) -> int: ...

    @abstractmethod
    def values(self) -> np.ndarray:
        """The rows, `[N, F]`."""

    @abstractmethod
    def answer(self, place: int, outcome: Reply | CarryError) -> None:
        """Answer a row, once."""

    @abstractmethod
    def answer_committed(self, places: list[int], records: list[Record], steps: list[int]) -> None:
        """Answer all rows that were committed."""

    @abstractmethod
    def alone(self, place: int) -> None:
        """Begin again, alone and at the head of its lane, a row that could not go with others."""

    # The same for all.

    def head(self, lane: Lane, num_values: int) -> bool:
        """Head the lane of a row; False, with nothing done, if it does not fit the model."""
        base, model = lane.record, self.worker.model
        if base is None or num_values != model.num_values:
            return False
        if model.time is not None:
            try:
                first_s = first_time_s(model, base.opening.start_s, lane.step, 1)
            except InvalidInputError:
                return False
            self._first_times.append(first_s)
        self.turns.lanes.begin(lane, self)
        self.lanes.append(lane)
        self._bases.append(base)
        return True

    def forget(self, place: int) -> None:
        """Take a row out again; whoever headed its lane by it lets the lane go on."""
        del self.lanes[place], self._bases[place]
        if self._first_times:
            del self._first_times[place]

    @property
    def num_rows(self) -> int:
        return len(self.lanes)

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
        steps = [lane.step for lane in self.lanes]
        counts = [1] * len(steps)
        digests = digests_of_rows(self.values())
        data = stepped_alike(
            self._bases, steps, counts, digests, result.states, result.last, time.time()
        )
        openings = [base.opening for base in self._bases]
        writes: list[Write] = list(zip(openings, data, self._bases, strict=True))
        self.turns.committer.put(writes, self._committed)

    def refuse(self, places: list[int], error: CarryError) -> None:
        """Rows that were not applied leave the group."""
        for place in reversed(places):
            self.answer(place, error)
            self.turns.next(self.lanes[place])
            self.forget(place)

    def fail(self, error: CarryError) -> None:
        """None of the rows was applied."""
        for place, lane in enumerate(self.lanes):
            self.answer(place, error)
            self.turns.next(lane)

    def end(self, outcome: Reply | CarryError) -> None:
        """Answer all rows that have no answer yet; the group still ends by itself."""
        for place in range(len(self.lanes)):
            self.answer(place, outcome)

    def _committed(self, outcomes: Sequence[Record | CarryError | None]) -> None:
        turns, lanes = self.turns, self.turns.lanes
        places, records, steps = [], [], []
        for place, (lane, kept) in enumerate(zip(self.lanes, outcomes, strict=True)):
            if isinstance(kept, Record):
                step = lane.step + 1
                lanes.stepped(lane, kept, step)
                places.append(place)
                records.append(kept)
                steps.append(step)
                turns.next(lane)
            elif kept is None:  # another writer was first
                lanes.remember(lane, None)
                self.alone(place)
            else:
                lanes.remember(lane, None)
                self.answer(place, kept)
                turns.next(lane)
        model = self.worker.model
        turns.observer.steps_committed(model.name, model.version, len(places))
        self.answer_committed(places, records, steps)
