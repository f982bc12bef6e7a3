"""One piece of work for one row of a graph: segments of steps, run one after another.

Rule 1: a job belongs to one worker from `submit` to `on_done` and is touched by no one else.
Rule 2: its state is its own until its owner commits it; slices of a job are never committed.
Rule 3: a segment that does not keep its state is the last one (the uncertain tail of a text).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from service.engine.runner import BatchResult, Inputs, Row
from service.errors import CarryError
from service.stores.record import Outputs

Emit = Literal["none", "last", "all"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of steps of one row. `keeps_state` is False for steps tried on a copy of the state."""

    inputs: Inputs
    num_steps: int
    emit: Emit
    keeps_state: bool = True


@dataclass(slots=True)
class Job:
    """Segments to run one after another from `state`; empty segments are left out beforehand."""

    segments: list[Segment]
    state: bytes
    on_done: Callable[["Job", CarryError | None], None]
    is_wanted: Callable[[], bool]
    deadline: float
    outputs: Outputs = field(default_factory=dict)
    _running_state: bytes = b""
    _segment: int = 0
    _position: int = 0
    _emitted: list[dict[str, np.ndarray]] = field(default_factory=list)

    @property
    def segment(self) -> Segment:
        return self.segments[self._segment]

    @property
    def remaining_steps(self) -> int:
        """Of the current segment."""
        return self.segment.num_steps - self._position

    @property
    def steps_left(self) -> int:
        """Of this segment and those behind it."""
        return sum(s.num_steps for s in self.segments[self._segment :]) - self._position

    def row(self, num_steps: int) -> Row:
        """The next `num_steps` steps of the current segment."""
        start = self._position
        state = self._running_state if start else self.state
        if start == 0 and num_steps == self.segment.num_steps:
            return Row(self.segment.inputs, num_steps, state)
        sliced = {k: v[start : start + num_steps] for k, v in self.segment.inputs.items()}
        return Row(sliced, num_steps, state)

    def advance(self, num_steps: int, result: BatchResult, row: int) -> bool:
        """Take this job's share of a batch; True when the last segment is through."""
        segment = self.segment
        self._position += num_steps
        ended = self._position == segment.num_steps
        if segment.emit == "all":
            self._emit(result, row, 0, num_steps)
        elif segment.emit == "last" and ended:
            self._emit(result, row, num_steps - 1, num_steps)
        self._running_state = result.states[row]
        if not ended:
            return False
        if segment.keeps_state:
            self.state = self._running_state
        self._segment += 1
        self._position = 0
        if self._segment < len(self.segments):
            return False
        self._gather_outputs()
        return True

    def _emit(self, result: BatchResult, row: int, start: int, stop: int) -> None:
        # Copied, so that a kept reply does not keep its whole batch.
        self._emitted.append({k: v[row, start:stop].copy() for k, v in result.outputs.items()})

    def _gather_outputs(self) -> None:
        if len(self._emitted) == 1:
            self.outputs = self._emitted[0]
        elif self._emitted:
            names = self._emitted[0]
            self.outputs = {k: np.concatenate([part[k] for part in self._emitted]) for k in names}
