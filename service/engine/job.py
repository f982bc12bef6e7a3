"""One piece of work for one row of a graph: segments of steps, run one after another.

Rule 1: a job belongs to one worker from `submit` to `on_done` and is touched by no one else.
Rule 2: its state is its own until its owner commits it; slices of a job are never committed.
Rule 3: a segment that does not keep its state is the last one (the uncertain tail of a text).
"""

import asyncio
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from service.engine.runner import BatchResult, Inputs, Row, Runner
from service.errors import CarryError
from service.stores.record import PackedOutputs

Emit = Literal["none", "last", "all"]


class Segment(NamedTuple):
    """A run of steps of one row. `keeps_state` is False for steps tried on a copy of the state."""

    inputs: Inputs
    num_steps: int
    emit: Emit
    keeps_state: bool = True


class Job:
    """Segments to run one after another from `state`; none of them is empty.

    `future` is the client's: when it is done, nobody wants the job any more. `owner` is for
    `on_done` to find its way back.
    """

    __slots__ = (
        "_emitted",
        "_later",
        "_position",
        "_running_state",
        "deadline",
        "future",
        "on_done",
        "outputs",
        "owner",
        "segment",
        "state",
        "steps_left",
    )

    def __init__(
        self,
        segments: list[Segment],
        state: bytes,
        future: "asyncio.Future[Any]",
        deadline: float,
        on_done: Callable[["Job", CarryError | None], None],
        owner: Any = None,  # noqa: ANN401 -- opaque here
    ) -> None:
        self.segment, *self._later = segments
        self.state = state
        self.future = future
        self.deadline = deadline
        self.on_done = on_done
        self.owner = owner
        self.outputs: PackedOutputs = b""
        self.steps_left = sum(segment.num_steps for segment in segments)
        self._running_state = state
        self._position = 0
        self._emitted: list[bytes] = []

    @property
    def remaining_steps(self) -> int:
        """Of the current segment."""
        return self.segment.num_steps - self._position

    def row(self, num_steps: int) -> Row:
        """The next `num_steps` steps of the current segment."""
        segment, start = self.segment, self._position
        if num_steps == segment.num_steps:
            return Row(segment.inputs, num_steps, self._running_state)
        sliced = {k: v[start : start + num_steps] for k, v in segment.inputs.items()}
        return Row(sliced, num_steps, self._running_state)

    def advance(self, num_steps: int, result: BatchResult, row: int, runner: Runner) -> bool:
        """Take this job's share of a batch; True when the last segment is through."""
        segment = self.segment
        self._running_state = result.states[row]
        self._position += num_steps
        self.steps_left -= num_steps
        has_ended = self._position == segment.num_steps
        if segment.emit == "all":
            self._emitted.append(runner.outputs.pack_row(result.outputs, row, num_steps))
        elif has_ended and segment.emit == "last":
            self._emitted.append(result.last[row])
        if not has_ended:
            return False
        if segment.keeps_state:
            self.state = self._running_state
        if self._later:
            self.segment = self._later.pop(0)
            self._position = 0
            return False
        self.outputs = b"".join(self._emitted)
        return True
