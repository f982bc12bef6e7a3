"""Trains a cell on the adding problem and writes down what usually nobody sees.

At every update: the loss, and the norm of the gradient before and after clipping. Every few
updates: the spectral radius of W_hh. At the start and at the end: activations of a batch, and how
gradients flow back.

Axis legend: B rows, T steps, H hidden.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training.cells.base import RecurrentLayer
from training.cells.rnn import RNNLayer, spectral_radius
from training.diagnose.cases import Case
from training.diagnose.gradient_flow import GradientFlow, gradient_flow
from training.experiments.adding import sequences

_ROWS = 32


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """What the network is trained on, and for how long."""

    num_steps: int = 50
    hidden_size: int = 64
    num_updates: int = 400
    learning_rate: float = 3e-3
    clip: float | None = 1.0
    """None: gradients are taken as they come."""
    is_plain: bool = False
    """Plain gradient descent in place of Adam, which divides the size of a gradient out."""


@dataclass(slots=True)
class Watched:
    """One training, written down."""

    case: Case
    plan: WatchPlan
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    """Of the whole gradient, before clipping."""
    clipped_norms: list[float] = field(default_factory=list)
    radii: list[tuple[int, float]] = field(default_factory=list)
    activations: list[np.ndarray] = field(default_factory=list)
    """All outputs of a batch, at the start and at the end."""
    flows: list[GradientFlow] = field(default_factory=list)
    """At the start and at the end."""

    @property
    def has_diverged(self) -> bool:
        return not math.isfinite(self.losses[-1])


def watch(case: Case, plan: WatchPlan, seed: int = 0) -> Watched:
    """Train; a loss that is not finite any more ends it."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    layer, head = case.make(2, plan.hidden_size), nn.Linear(plan.hidden_size, 1)
    weights = [*layer.parameters(), *head.parameters()]
    optimiser: torch.optim.Optimizer = (
        torch.optim.SGD(weights, lr=plan.learning_rate)
        if plan.is_plain
        else torch.optim.Adam(weights, lr=plan.learning_rate)
    )
    watched = Watched(case, plan)
    _look(watched, layer)
    for update in range(plan.num_updates):
        if update % 10 == 0:
            _measure_radius(watched, layer, update)
        x, y = sequences(_ROWS, plan.num_steps, generator)
        start = layer.initial_state().expand(len(x), -1)
        loss = functional.mse_loss(head(layer(x, None, start)[0][:, -1]).squeeze(1), y)
        watched.losses.append(loss.item())
        if watched.has_diverged:
            break
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch says nothing of it
        limit = math.inf if plan.clip is None else plan.clip
        norm = nn.utils.clip_grad_norm_(weights, limit).item()
        watched.norms.append(norm)
        watched.clipped_norms.append(min(norm, limit))
        optimiser.step()
    _measure_radius(watched, layer, len(watched.losses))
    if not watched.has_diverged:
        _look(watched, layer)
    return watched


def _look(watched: Watched, layer: RecurrentLayer) -> None:
    x, _ = sequences(_ROWS, watched.plan.num_steps, torch.Generator().manual_seed(1))
    with torch.no_grad():
        y, _ = layer(x, None, layer.initial_state().expand(len(x), -1))
    watched.activations.append(y.flatten().numpy())
    watched.flows.append(gradient_flow(layer, watched.plan.num_steps))


def _measure_radius(watched: Watched, layer: RecurrentLayer, update: int) -> None:
    if isinstance(layer, RNNLayer) and torch.isfinite(layer.weights()[1]).all():
        watched.radii.append((update, spectral_radius(layer.weights()[1])))
