"""One piece of work for one row of a graph: segments of steps, run one after another.

Rule 1: a job belongs to one worker from `submit` to its end and is touched by no one else.
Rule 2: its state is its own until its owner commits it; slices of a job are never committed.
Rule 3: a segment that does not keep its state is the last one (the uncertain tail of a text).
Rule 4: where a writer follows, it says the segments as they come, and what it wrote stands behind
        the outputs of the last step. It may end before the steps that it was counted for.
"""

import asyncio
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from service.contract.outputs import OutputLayout
from service.engine.graph.runner import BatchResult
from service.engine.graph.sampler import Sampler
from service.engine.inference.admission import Admission
from service.engine.timing import RequestTiming
from service.errors import CarryError
from service.stores.record.record import PackedOutputs

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
    """What a worker runs; the result goes to `future`.

    `remaining` counts the steps of the current segment, `steps_left` those of all. `state` and
    `outputs` are set when it is through, unless it `is_simple` and ended with its first batch: then
    they lie in the batch's result.
    """

    __slots__ = (
        "_emitted",
        "_later",
        "constants",
        "counted",
        "deadline",
        "emit",
        "first_time_s",
        "future",
        "is_simple",
        "keeps_state",
        "num_steps",
        "outputs",
        "remaining",
        "running_state",
        "state",
        "steps_left",
        "timing",
        "values",
        "writer",
    )

    admission: ClassVar[Admission | None] = None  # of a part of a request
    outputs: PackedOutputs
    constants: bytes  # of models that have any: those of one batch are alike
    counted: int  # the worker's own
    writer: Sampler | None  # of a job of text only

    def __init__(
        self, future: "asyncio.Future[Any]", deadline: float, timing: RequestTiming | None = None
    ) -> None:
        self.future = future
        self.deadline = deadline
        self.timing = timing

    def feed(self, segments: list[Segment], state: bytes, writer: Sampler | None = None) -> None:
        """Set what is to be run, from which state. No segment is empty."""
        self.state = self.running_state = state
        self.writer = writer
        self.steps_left = sum([segment.num_steps for segment in segments])
        self._later: list[Segment | Sampler] = [*segments[1:]]
        if writer is not None:
            self.steps_left += writer.max_steps
            self._later.append(writer)
        self._emitted: list[bytes] = []
        self._turn_to(segments[0])
        self.is_simple = not self._later and self.emit == "last" and self.keeps_state

    def feed_rows(self, rows: np.ndarray, emit: Emit, first_time_s: int, state: bytes) -> None:
        """As `feed`, for the one segment that rows are."""
        self.state = self.running_state = state
        self.values = rows
        self.num_steps = self.remaining = self.steps_left = len(rows)
        self.emit = emit
        self.first_time_s = first_time_s
        self.keeps_state = True
        self._later = _NOTHING
        self.is_simple = emit == "last"
        if emit == "all":
            self._emitted = []

    def _turn_to(self, segment: Segment) -> None:
        self.values, self.num_steps, self.emit, self.first_time_s, self.keeps_state = segment
        self.remaining = self.num_steps

    def fail(self, error: CarryError) -> None:
        """End it with an error."""
        if not self.future.done():
            self.future.set_exception(error)

    @property
    def start(self) -> int:
        """How many steps of the current segment have been run."""
        return self.num_steps - self.remaining

    def next_values(self, num_steps: int) -> np.ndarray:
        """The next `num_steps` steps of the current segment."""
        if num_steps == self.num_steps:
            return self.values
        return self.values[self.start : self.start + num_steps]

    def advance(self, num_steps: int, result: BatchResult, row: int, layout: OutputLayout) -> bool:
        """Take this job's share of a batch; True when the last segment is through."""
        self.running_state = result.state_of(row)
        self.remaining -= num_steps
        self.steps_left -= num_steps
        if self.emit == "all":
            self._emitted.append(layout.pack_row(result.outputs, row, num_steps))
        elif self.emit == "last" and not self.remaining:
            self._emitted = [result.last_of(row)]
        if self.remaining:
            return False
        if self.keeps_state:
            self.state = self.running_state
        if self._later and self._goes_on():
            return False
        self.outputs = b"".join(self._emitted)
        return True

    def _goes_on(self) -> bool:
        """Turn to the next segment; False if a writer has none any more."""
        following = self._later[0]
        if isinstance(following, Segment):
            self._turn_to(following)
            del self._later[0]
            return True
        written = following.write(self._emitted[0])
        if written is None:
            self._emitted.append(following.text.encode())
            return False
        token, is_last = written
        self._turn_to(Segment(following.steps_of([token]), 1, keeps_state=not is_last))
        return True


_NOTHING: list[Segment | Sampler] = []
