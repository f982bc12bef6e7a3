"""Single rows of many sessions that travel together, without an object for each.

Rule 1: a row is in a group only if its session is idle, cached, plain and at the step that the row
        names. Any other row goes alone, as a turn; so does one whose commit was refused.
Rule 2: a group heads the lanes of its sessions until it is committed: whatever comes for them
        waits behind it.
Rule 3: a group is one batch of the graph and one part of a group commit.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from service.engine.bulk import Bulk, BulkTurn
from service.engine.inputs import first_time_s
from service.engine.lanes import Lane
from service.engine.requests import Observations, StepRequest, digests_of_rows
from service.engine.runner import Batch, BatchResult
from service.engine.session import Reply, stepped_alike
from service.engine.worker import Worker
from service.errors import CarryError, InvalidInputError, QueueFullError
from service.stores.base import Write
from service.stores.record import STATE_AT, Key, Record

if TYPE_CHECKING:
    from service.engine.turns import Turns

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


class BulkRows(Bulk):
    """A bulk of single rows, in which those travel together that can."""

    _requests: RowRequests

    def _begin_some(self, places: range) -> None:
        groups: dict[Worker, RowGroup] = {}
        keys, steps = self._requests.keys, self._requests.steps
        lane_of = self._lanes.lane_of
        for place in places:
            lane, step = lane_of(keys[place]), steps[place]
            worker = lane.worker
            if (
                worker is None
                or not lane.is_plain
                or lane.head is not None
                or (step is not None and step != lane.step)
                or (self.failed and lane.key in self.failed)
            ):
                self._begin_one(place)
                continue
            group = groups.get(worker)
            if group is None:
                group = groups[worker] = RowGroup(self, worker, self._requests.rows)
            if not group.add(lane, place):
                self._begin_one(place)
            elif len(group.lanes) == _MAX_ROWS:
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

    def alone(self, lane: Lane, place: int) -> None:
        """Begin again, alone and at the head of its lane, a row that could not go with others."""
        _, request = self._requests[place]
        turn = BulkTurn(lane, request, self.future, self.deadline)
        turn.bulk, turn.place = self, place
        lane.head = turn
        self.turns.begin(turn)

    @property
    def turns(self) -> "Turns":
        return self._turns


class RowGroup:
    """One batch of single rows, from `add` to the answers; at most `_MAX_ROWS`."""

    __slots__ = (
        "_bases",
        "_bulk",
        "_first_times",
        "_rows",
        "_worker",
        "deadline",
        "lanes",
        "places",
    )

    def __init__(self, bulk: BulkRows, worker: Worker, rows: np.ndarray) -> None:
        self._bulk = bulk
        self._worker = worker
        self._rows = rows
        self._first_times: list[int] = []
        self.deadline = bulk.deadline
        self.lanes: list[Lane] = []
        self.places: list[int] = []
        self._bases: list[Record] = []

    @property
    def future(self) -> Any:  # noqa: ANN401 -- whoever waits; only asked whether it is done
        return self._bulk.future

    def add(self, lane: Lane, place: int) -> bool:
        """Take a row up and head its lane; False if it does not fit the model."""
        base, model = lane.record, self._worker.model
        if base is None or self._rows.shape[1] != model.num_values:
            return False
        if model.time is not None:
            try:
                first_s = first_time_s(model, base.opening.start_s, lane.step, 1)
            except InvalidInputError:
                return False
            self._first_times.append(first_s)
        self._bulk.turns.lanes.begin(lane, self)
        self.lanes.append(lane)
        self.places.append(place)
        self._bases.append(base)
        return True

    def submit(self) -> None:
        try:
            self._worker.submit_group(self)
        except QueueFullError as error:
            self.fail(error)

    @property
    def num_rows(self) -> int:
        return len(self.lanes)

    def stage(self) -> Batch:
        """The batch that these rows are."""
        model = self._worker.model
        end = STATE_AT + model.layout.row_bytes
        states = [base.data[STATE_AT:end] for base in self._bases]
        ones = [1] * len(states)
        values = self._rows[self.places][:, None]
        return model.runner.stage(values, states, ones, self._first_times, [0] * len(states))

    def ran(self, result: BatchResult) -> None:
        """Commit all rows at once."""
        steps = [lane.step for lane in self.lanes]
        counts = [1] * len(steps)
        digests = digests_of_rows(self._rows[self.places])
        data = stepped_alike(
            self._bases, steps, counts, digests, result.states, result.last, time.time()
        )
        openings = [base.opening for base in self._bases]
        writes: list[Write] = list(zip(openings, data, self._bases, strict=True))
        self._bulk.turns.committer.put(writes, self._answer)

    def fail(self, error: CarryError) -> None:
        """None of the rows was applied."""
        for lane, place in zip(self.lanes, self.places, strict=True):
            self._bulk.take(place, error)
            self._bulk.turns.next(lane)

    def end(self, outcome: Reply | CarryError) -> None:
        """Answer all rows that have no answer yet; the group still ends by itself."""
        for place in self.places:
            self._bulk.take(place, outcome)

    def _answer(self, outcomes: Sequence[Record | CarryError | None]) -> None:
        turns = self._bulk.turns
        num_bytes = self._worker.model.runner.outputs.step_bytes
        places, steps, outputs = [], [], []
        for lane, place, kept in zip(self.lanes, self.places, outcomes, strict=True):
            if isinstance(kept, Record):
                step = lane.step + 1
                turns.lanes.stepped(lane, kept, step)
                places.append(place)
                steps.append(step)
                outputs.append(kept.data[-num_bytes:])
                turns.next(lane)
            elif kept is None:  # another writer was first
                turns.lanes.remember(lane, None)
                self._bulk.alone(lane, place)
            else:
                turns.lanes.remember(lane, None)
                self._bulk.take(place, kept)
                turns.next(lane)
        model = self._worker.model
        turns.observer.steps_committed(model.name, model.version, len(places))
        self._bulk.took_group(places, steps, outputs)
