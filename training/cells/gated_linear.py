"""Recurrences whose gates do not see the state: h_t = a_t ⊙ h_{t−1} + b_t.

The step is linear in h, so training needs no loop over time: log₂ T sweeps give every step at once
(Hillis & Steele, 1986). Served, it is one multiplication and one addition a step.

Axis legend: B rows, T steps, F features, H hidden.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from training.cells.stepped import SteppedLayer


class GatedLinearLayer(SteppedLayer):
    """`state` is `h[B,H]`; a kind says what a and b are."""

    @abstractmethod
    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x[B,T,F]` → a and b, `[B,T,H]` each."""

    @property
    def state_size(self) -> int:
        return self.hidden_size

    def inputs(self, x: Tensor) -> Tensor:
        return torch.cat(self.gates(x), dim=-1)

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, dim=-1)
        h = a * state + b
        return h, h

    def forward(self, x: Tensor, length: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_exporting():
            return super().forward(x, length, state)
        a, b = self.gates(x)
        if length is not None:  # a step that is not valid keeps h: 1 · h + 0
            steps = torch.arange(x.shape[1], device=x.device)
            valid = (steps < length.unsqueeze(1)).unsqueeze(2)
            a = torch.where(valid, a, torch.ones_like(a))
            b = torch.where(valid, b, torch.zeros_like(b))
        h = parallel_scan(a, b, state)
        return h, h[:, -1]


def parallel_scan(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """h_t = a_t ⊙ h_{t−1} + b_t for all t, `[B,T,H]`, from `start[B,H]`.

    After the sweep of distance d, the pair at t stands for the last 2d steps together. Products of
    gates in [0, 1] can only shrink, so nothing overflows.
    """
    distance = 1
    while distance < a.shape[1]:
        later_a, later_b = a[:, distance:], b[:, distance:]
        b = torch.cat([b[:, :distance], later_a * b[:, :-distance] + later_b], dim=1)
        a = torch.cat([a[:, :distance], later_a * a[:, :-distance]], dim=1)
        distance *= 2
    return a * start.unsqueeze(1) + b
