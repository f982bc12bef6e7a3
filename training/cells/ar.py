"""Autoregressive model AR(τ): a linear map of the last τ inputs, and nothing older.

    y_t = W · [x_t, x_{t−1}, …, x_{t−τ+1}] + b

It forgets by construction: the baseline that every recurrence has to beat. What is carried is the
window of the last τ inputs, oldest first, zeros where nothing was seen yet.

Axis legend: B rows, T steps, F features, H hidden, W window (τ).
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from training.cells.base import RecurrentLayer
from training.config import Section


class AROptions(Section):
    """`[cell.options]` of an autoregressive model."""

    lags: int = Field(default=7, ge=1, le=4096)
    """τ: how many inputs it sees, the newest included."""


class ARLayer(RecurrentLayer):
    """One AR(τ) layer; `state` is the window `[B, τ·F]`."""

    Options: ClassVar[type[Section]] = AROptions
    default_lags: ClassVar[int] = AROptions().lags
    window_index: Tensor

    def __init__(self, input_size: int, hidden_size: int, options: Section | None = None) -> None:
        super().__init__(input_size, hidden_size, options)
        self.lags = options.lags if isinstance(options, AROptions) else self.default_lags
        self.linear = nn.Linear(self.lags * input_size, hidden_size)
        self.register_buffer("window_index", torch.arange(self.lags), persistent=False)

    @property
    def state_size(self) -> int:
        return self.lags * self.input_size

    def forward(self, x: Tensor, length: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        past = torch.cat([state.reshape(-1, self.lags, self.input_size), x], dim=1)
        # Step t sees entries t+1 … t+τ of the past with T new values behind it.
        seen = torch.arange(x.shape[1], device=x.device).unsqueeze(1) + self.window_index + 1
        y = self.linear(past[:, seen].flatten(2))
        if length is None:
            return y, past[:, x.shape[1] :].flatten(1)
        last = (length.unsqueeze(1) + self.window_index).unsqueeze(2)
        return y, past.gather(1, last.expand(-1, -1, self.input_size)).flatten(1)


LAYER = ARLayer
