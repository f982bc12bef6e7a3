"""Clockwork RNN (Koutník et al., 2014): modules that tick at their own periods.

The hidden units are split into g modules with periods 1, 2, 4, …, 2^(g−1). Module i is updated when
t mod T_i = 0, and keeps its values otherwise; it reads only modules with periods at least its own:

    h_t = tanh(W_h h_{t−1} + W_x x_t + b) where the module ticks, h_{t−1} where it does not

Units lie from fast to slow, so W_h is block upper triangular. t counts a session's steps from 0, at
which every module ticks; the count is carried modulo the longest period.

Axis legend: B rows, T steps, F features, H hidden.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from training.cells.stepped import SteppedLayer
from training.config import Section
from training.errors import RecipeError


class ClockworkOptions(Section):
    """`[cell.options]` of a clockwork RNN."""

    num_modules: int = Field(default=4, ge=1, le=20)
    """g; the slowest module has period 2^(g−1)."""


class ClockworkLayer(SteppedLayer):
    """One clockwork layer; `state` is `[h, t mod T_g]`, `[B, H+1]`."""

    Options = ClockworkOptions
    periods: Tensor
    is_read: Tensor

    def __init__(
        self, input_size: int, hidden_size: int, options: ClockworkOptions | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, options)
        num_modules = (options or ClockworkOptions()).num_modules
        if hidden_size % num_modules:
            raise RecipeError(
                f"cell.hidden_size {hidden_size} cannot be split into {num_modules} modules of one"
                " size: change it, or cell.options.num_modules"
            )
        self.longest = 2 ** (num_modules - 1)
        module = torch.arange(hidden_size) // (hidden_size // num_modules)
        self.register_buffer("periods", (2.0**module).float(), persistent=False)
        self.register_buffer("is_read", (module >= module.unsqueeze(1)).float(), persistent=False)
        self.from_x = nn.Linear(input_size, hidden_size)
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        nn.init.uniform_(self.weight_hh, -(hidden_size**-0.5), hidden_size**-0.5)

    @property
    def state_size(self) -> int:
        return self.hidden_size + 1

    @property
    def num_weights(self) -> int:
        """Weights that are ever used: those that no module may read do not count."""
        num_masked = int((self.is_read == 0).sum())
        return sum(p.numel() for p in self.parameters()) - num_masked

    def inputs(self, x: Tensor) -> Tensor:
        projected: Tensor = self.from_x(x)
        return projected

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, t = torch.split(state, [self.hidden_size, 1], dim=1)
        moved = torch.tanh(x + functional.linear(h, self.weight_hh * self.is_read))
        # Periods are powers of two and t is small: these divisions are exact.
        ticks = torch.floor(t / self.periods) * self.periods == t
        h = torch.where(ticks, moved, h)
        t = t + 1
        t = t - torch.floor(t / self.longest) * self.longest
        return h, torch.cat([h, t], dim=1)


LAYER = ClockworkLayer
