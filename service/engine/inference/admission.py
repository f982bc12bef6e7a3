"""What waits for one model or runs in it, counted, and what is refused because of it.

Rule 1: it is bounded in pieces of work, in steps, and in the time that it is expected to take.
Rule 2: a request is let in as a whole, or refused as a whole: it never counts against itself. So
        an empty queue takes a request of any size; limits of requests bound it before it comes
        here. What is let in may lie beyond the bounds by that one request.
Rule 3: a long job counts for a part of its steps in that time, because it gives way to others.
Rule 4: the expected time is learnt from batches that make good use of the graph. Smaller ones cost
        more for each cell, so they count where even they took less than is expected: an estimate
        that is too high, by which most work is refused, falls by whatever is let in.

The worker owns it. Steps that are in the graph still count.
"""

from typing import NamedTuple

from service.engine.models.loaded_model import LoadedModel
from service.errors import QueueFullError

COUNTED_STEPS = 1024
"""Of a long job in the expected time of the queue: it is fed in slices, in turn with others."""


class QueueBounds(NamedTuple):
    """What may wait for one model: pieces of work, steps, and seconds of the graph's time."""

    max_jobs: int
    max_steps: int
    max_s: float


class Admission:
    """Of one request that comes in parts: the queues that have let it in, by its first part."""

    __slots__ = ("let_in_by",)

    def __init__(self) -> None:
        self.let_in_by: set[Backlog] = set()


class Backlog:
    """`cell_s` is the expected time of one cell of a batch that makes good use of the graph."""

    __slots__ = ("_bounds", "_model", "cell_s", "num_counted", "num_steps")

    def __init__(self, model: LoadedModel, bounds: QueueBounds) -> None:
        self._model = model
        self._bounds = bounds
        self.num_steps = 0
        self.num_counted = 0
        self.cell_s = 0.0

    def admit(self, admission: Admission | None, num_steps: int, num_pieces: int) -> None:
        """As `require_room`, of a part of a request: only the first of them is looked at."""
        if admission is None:
            self.require_room(num_steps, num_pieces)
        elif self not in admission.let_in_by:
            self.require_room(num_steps, num_pieces)
            admission.let_in_by.add(self)

    def add(self, num_steps: int, num_counted: int) -> None:
        """Count work in that was let in."""
        self.num_steps += num_steps
        self.num_counted += num_counted

    def release(self, num_steps: int, num_counted: int) -> None:
        """Count work out."""
        self.num_steps -= num_steps
        self.num_counted -= num_counted

    def learn(self, cell_s: float, *, is_well_used: bool) -> None:
        """A batch took so long for each of its cells, and made good use of the graph, or not."""
        if is_well_used and not self.cell_s:
            self.cell_s = cell_s
        elif is_well_used or cell_s < self.cell_s:
            self.cell_s += 0.1 * (cell_s - self.cell_s)

    def require_room(self, num_steps: int, num_pieces: int) -> None:
        """Raise QueueFullError if so many steps would not fit behind what waits."""
        bounds = self._bounds
        if self.num_steps and (
            num_pieces >= bounds.max_jobs
            or self.num_steps + num_steps > bounds.max_steps
            or self.num_counted * self.cell_s > bounds.max_s
        ):
            raise QueueFullError(
                f"model {self._model.name!r} has {num_pieces} pieces of work with"
                f" {self.num_steps} steps waiting, about {self.num_counted * self.cell_s:.2g} s"
                f" (at most {bounds.max_jobs}, {bounds.max_steps} and {bounds.max_s:g} s); nothing"
                " was applied: try again later",
                retry_after_s=1,
            )
