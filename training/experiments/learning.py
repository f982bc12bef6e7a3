"""The loop that the experiments train with: Adam, clipping, early stopping, and a curve.

It is plain on purpose. What `fit` adds for models that are shipped (runs on disk, schedules,
averaging) would only stand between a reader and the experiment.

Axis legend: B rows, T steps, F features, H hidden, O outputs.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.cells.base import RecurrentStack
from training.cells.clockwork import ClockworkLayer
from training.config import CellConfig
from training.experiments.experiment import Outcome

Batches = Iterator[tuple[Tensor, Tensor]]


class Reader(nn.Module):
    """A stack of cells and a linear map of what it shows."""

    def __init__(self, cell: CellConfig, input_size: int, output_size: int) -> None:
        super().__init__()
        self.stack = RecurrentStack(cell, input_size)
        self.head = nn.Linear(self.stack.output_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """`x[B,T,F]` → `[B,T,O]`, an answer at every step."""
        answer: Tensor = self.head(self.stack(x, None, None)[0])
        return answer

    def last(self, x: Tensor) -> Tensor:
        """`x[B,T,F]` → `[B,O]`: the answer after the last step."""
        answer: Tensor = self.head(self.stack(x, None, None)[0][:, -1])
        return answer

    def num_weights(self) -> int:
        """Weights that are used: a clockwork module's unread inputs are none."""
        unread = sum(
            sum(p.numel() for p in layer.parameters()) - layer.num_weights
            for layer in self.stack.layers
            if isinstance(layer, ClockworkLayer)
        )
        return sum(p.numel() for p in self.parameters()) - unread


@dataclass(frozen=True, slots=True)
class LearningPlan:
    """How long, how fast, and when it is enough."""

    learning_rate: float
    max_updates: int
    check_every: int
    clip: float = 1.0
    stop_at: float = -math.inf
    """Ends when the monitored error is not higher."""


def learn(
    network: Reader,
    batches: Batches,
    loss: Callable[[Tensor, Tensor], Tensor],
    check: Callable[[], float],
    test: Callable[[], float],
    plan: LearningPlan,
) -> Outcome:
    """Train; the curve is that of `check`, the figure that of `test` with the best weights by it.

    Errors are to be made small. A loss that is not finite ends the job; its figure is then that of
    the best weights before, or None where there were none.
    """
    started = time.monotonic()
    optimiser = torch.optim.Adam(network.parameters(), lr=plan.learning_rate)
    curve: list[tuple[float, float | None]] = []
    best, best_error = copy.deepcopy(network.state_dict()), math.inf
    update, has_diverged = 0, False
    while update < plan.max_updates:
        x, y = next(batches)
        value = loss(x, y)
        if not torch.isfinite(value):
            has_diverged = True
            curve.append((update, None))
            break
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]  # torch says nothing of it
        nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimiser.step()
        update += 1
        if update % plan.check_every == 0 or update == plan.max_updates:
            with torch.no_grad():
                error = check()
            curve.append((update, error if math.isfinite(error) else None))
            if error < best_error:
                best, best_error = copy.deepcopy(network.state_dict()), error
            if error <= plan.stop_at:
                break
    network.load_state_dict(best)
    with torch.no_grad():
        figure = test() if math.isfinite(best_error) else None
    return Outcome(
        figure=figure,
        curve=curve,
        num_weights=network.num_weights(),
        num_updates=update,
        seconds=round(time.monotonic() - started, 1),
        details={"has_diverged": float(has_diverged)},
    )
