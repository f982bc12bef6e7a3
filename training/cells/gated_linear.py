"""Recurrences whose gates do not see the state: h_t = a_t ⊙ h_{t−1} + b_t.

The step is linear in h, so training needs no loop over time: log₂ T sweeps give every step at once
(Hillis & Steele, 1986), and every gradient, whose recurrence is the same backwards in time. Served,
it is one multiplication and one addition a step.

Axis legend: B rows, T steps, F features, H hidden.
"""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

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
    """h_t = a_t ⊙ h_{t−1} + b_t for all t, `[B,T,H]`, from `start[B,H]`."""
    h: Tensor = _Scan.apply(a, b, start)  # type: ignore[no-untyped-call]  # torch says nothing of it
    return h


class _Scan(torch.autograd.Function):
    """With a backward of its own: autograd would keep and go through every sweep.

    ∂L/∂b_t = g_t with g_t = (∂L/∂h_t) + a_{t+1} ⊙ g_{t+1}, and ∂L/∂a_t = g_t ⊙ h_{t−1}.
    """

    @staticmethod
    def forward(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        first = torch.addcmul(b[:, :1], a[:, :1], start.unsqueeze(1))
        return _sweep(a, torch.cat([first, b[:, 1:]], dim=1))

    @staticmethod
    def setup_context(
        ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor
    ) -> None:
        a, _, start = inputs
        ctx.save_for_backward(a, start, output)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, start, h = ctx.saved_tensors  # type: ignore[attr-defined]  # nor of this
        later_a = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1)
        g = _sweep(later_a.flip(1), gradient.flip(1)).flip(1)
        before = torch.cat([start.unsqueeze(1), h[:, :-1]], dim=1)
        return g * before, g, a[:, 0] * g[:, 0]


def _sweep(a: Tensor, b: Tensor) -> Tensor:
    """The scan from a start of 0.

    After the sweep of distance d, the pair at t stands for the last 2d steps together. Products of
    gates in [0, 1] can only shrink, so nothing overflows.
    """
    distance = 1
    while distance < a.shape[1]:
        later_a, later_b = a[:, distance:], b[:, distance:]
        b = torch.cat([b[:, :distance], torch.addcmul(later_b, later_a, b[:, :-distance])], dim=1)
        a = torch.cat([a[:, :distance], later_a * a[:, :-distance]], dim=1)
        distance *= 2
    return b
