"""One piece of work for one row of a graph: segments of steps, run one after another.

Rule 1: a job belongs to one worker from `submit` to its end and is touched by no one else.
Rule 2: its state is its own until its owner commits it; slices of a job are never committed.
Rule 3: a segment that does not keep its state is the last one (the uncertain tail of a text).
"""

import asyncio
from typing import Any, Literal, NamedTuple

import numpy as np

from service.contract.outputs import OutputLayout
from service.engine.runner import BatchResult, Row
from service.errors import CarryError
from service.stores.record import PackedOutputs

Emit = Literal["none", "last", "all"]


class Segment(NamedTuple):
    """A run of steps of one row: rows `[T, F]` or tokens `[T]`, and the time of the first.

    `keeps_state` is False for steps tried on a copy of the state.
    """

    values: np.ndarray
    num_steps: int
    emit: Emit = "last"
    first_time_s: int = 0
    keeps_state: bool = True


class Job:
    """What a worker runs, for whoever waits for `future`.

    `remaining` counts the steps of the current segment, `steps_left` those of all. `state` and
    `outputs` are set when it is through, unless it `is_simple` and ended with its first batch: then
    they lie in the batch's result.
    """

    __slots__ = (
        "_emitted",
        "_later",
        "_running_state",
        "deadline",
        "future",
        "is_simple",
        "outputs",
        "remaining",
        "segment",
        "state",
        "steps_left",
    )

    outputs: PackedOutputs

    def __init__(self, future: "asyncio.Future[Any]", deadline: float) -> None:
        self.future = future
        self.deadline = deadline

    def feed(self, segments: list[Segment], state: bytes) -> None:
        """Set what is to be run, from which state. No segment is empty."""
        segment = self.segment = segments[0]
        self._later = segments[1:]
        self.state = self._running_state = state
        self.remaining = self.steps_left = segment.num_steps
        for later in self._later:
            self.steps_left += later.num_steps
        self.is_simple = not self._later and segment.emit == "last" and segment.keeps_state
        self._emitted: list[bytes] = []

    def fail(self, error: CarryError) -> None:
        """End it with an error."""
        if not self.future.done():
            self.future.set_exception(error)

    def row(self, num_steps: int) -> Row:
        """The next `num_steps` steps of the current segment."""
        values, total, _, first_time_s, _ = self.segment
        if num_steps == total:
            return Row(values, num_steps, self._running_state, first_time_s)
        start = total - self.remaining
        values = values[start : start + num_steps]
        return Row(values, num_steps, self._running_state, first_time_s, start)

    def advance(self, num_steps: int, result: BatchResult, row: int, layout: OutputLayout) -> bool:
        """Take this job's share of a batch; True when the last segment is through."""
        emit = self.segment.emit
        self._running_state = result.state_of(row)
        self.remaining -= num_steps
        self.steps_left -= num_steps
        if emit == "all":
            self._emitted.append(layout.pack_row(result.outputs, row, num_steps))
        elif emit == "last" and not self.remaining:
            self._emitted.append(result.last_of(row))
        if self.remaining:
            return False
        if self.segment.keeps_state:
            self.state = self._running_state
        if self._later:
            self.segment = self._later.pop(0)
            self.remaining = self.segment.num_steps
            return False
        self.outputs = b"".join(self._emitted)
        return True
