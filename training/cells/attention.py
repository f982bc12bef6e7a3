"""Attention over the past: at every step a softmax-weighted mean of all steps so far.

    y_t = Σ_{s≤t} p_s v_s,  p_s = exp(q·k_s) / Σ_{r≤t} exp(q·k_r),  k_s = W_k x_s,  v_s = W_v x_s

The query q is learned and fixed, one for each head, so the past need not be kept: the softmax is
carried on-line (Milakov & Gimelshein, 2018). q·k_s = (W_kᵀ q)·x_s is one linear map of x_s, and is
learned as such.

Carried for each head: the largest score m, the weight n = Σ exp(score − m), and the mean itself. A
carried numerator would grow with the stream and lose digits; a mean does not.

Axis legend: B rows, T steps, F features, H hidden, N heads.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from training.cells.base import LOWEST
from training.cells.stepped import SteppedLayer
from training.config import Section
from training.errors import RecipeError


class AttentionOptions(Section):
    """`[cell.options]` of attention over the past."""

    num_heads: int = Field(default=2, ge=1, le=256)
    """Queries, each with its share of the hidden units."""


class AttentionLayer(SteppedLayer):
    """One attention layer; `state` is `[m, n, mean]`, `[B, 2N+H]`."""

    Options = AttentionOptions
    units: Tensor
    """`[N,H]`: 1 where a unit belongs to a head."""

    def __init__(
        self, input_size: int, hidden_size: int, options: AttentionOptions | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, options)
        self.num_heads = (options or AttentionOptions()).num_heads
        if hidden_size % self.num_heads:
            raise RecipeError(
                f"cell.hidden_size {hidden_size} cannot be split among {self.num_heads} heads:"
                " change it, or cell.options.num_heads"
            )
        self.score = nn.Linear(input_size, self.num_heads, bias=False)
        self.value = nn.Linear(input_size, hidden_size)
        units = torch.eye(self.num_heads).repeat_interleave(hidden_size // self.num_heads, dim=1)
        self.register_buffer("units", units, persistent=False)

    @property
    def state_size(self) -> int:
        return 2 * self.num_heads + self.hidden_size

    def initial_state(self) -> Tensor:
        state = torch.zeros(self.state_size)
        state[: self.num_heads] = LOWEST
        return state

    def inputs(self, x: Tensor) -> Tensor:
        return torch.cat([self.score(x), self.value(x)], dim=-1)

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        score, value = torch.split(x, [self.num_heads, self.hidden_size], dim=1)
        m, n, mean = torch.split(state, [self.num_heads, self.num_heads, self.hidden_size], dim=1)
        new_m = torch.maximum(m, score)
        weight = torch.exp(score - new_m)
        n = n * torch.exp(m - new_m) + weight
        mean = mean + (weight / n) @ self.units * (value - mean)
        return mean, torch.cat([new_m, n, mean], dim=1)


LAYER = AttentionLayer
