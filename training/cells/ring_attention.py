"""Attention by content over the last W steps, kept in a ring of keys and values.

    y_t = Σ_s p_s v_s,  p = softmax over t−W < s ≤ t of q_t·k_s / √H
    q_t = W_q x_t,  k_s = W_k x_s,  v_s = W_v x_s

The query is that of the step itself, so the past cannot be summed up in advance: keys and values
are carried, oldest first, and how many of them are there yet. In a stack, x_t is what the layer
below says.

Axis legend: B rows, T steps, F features, H hidden, W window.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from training.cells.base import LOWEST, RecurrentLayer
from training.config import Section


class RingAttentionOptions(Section):
    """`[cell.options]` of attention over a ring."""

    window: int = Field(default=16, ge=1, le=4096)
    """W: how many steps it sees, the newest included."""


class RingAttentionLayer(RecurrentLayer):
    """One layer; `state` is `[keys, values, count]`, `[B, 2·W·H + 1]`."""

    Options = RingAttentionOptions
    window_index: Tensor

    def __init__(
        self, input_size: int, hidden_size: int, options: RingAttentionOptions | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, options)
        self.window = (options or RingAttentionOptions()).window
        self.query = nn.Linear(input_size, hidden_size, bias=False)
        self.key_value = nn.Linear(input_size, 2 * hidden_size, bias=False)
        self.register_buffer("window_index", torch.arange(self.window), persistent=False)

    @property
    def state_size(self) -> int:
        return 2 * self.window * self.hidden_size + 1

    def forward(self, x: Tensor, length: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        kept, count = torch.split(state, [self.state_size - 1, 1], dim=1)
        past = kept.reshape(-1, self.window, 2 * self.hidden_size)
        past = torch.cat([past, self.key_value(x)], dim=1)
        # Step t sees entries t+1 … t+W of the past with T new values behind it.
        steps = torch.arange(x.shape[1], device=x.device).unsqueeze(1)
        keys_BTWH, values_BTWH = past[:, steps + self.window_index + 1].chunk(2, dim=3)
        scores_BTW = (self.query(x).unsqueeze(2) * keys_BTWH).sum(dim=3) * self.hidden_size**-0.5
        num_known_BT1 = count.unsqueeze(1) + steps + 1
        is_known_BTW = self.window_index >= self.window - num_known_BT1
        scores_BTW = torch.where(is_known_BTW, scores_BTW, torch.full_like(scores_BTW, LOWEST))
        shares_BTW = torch.softmax(scores_BTW, dim=2)
        y = (shares_BTW.unsqueeze(3) * values_BTWH).sum(dim=2)
        if length is None:
            length = torch.full_like(count.squeeze(1), x.shape[1], dtype=torch.int64)
        last = (length.unsqueeze(1) + self.window_index).unsqueeze(2)
        kept = past.gather(1, last.expand(-1, -1, past.shape[2])).flatten(1)
        # A full ring is full: a count that went on would lose its last digit some day.
        count = (count + length.unsqueeze(1)).clamp(max=float(self.window))
        return y, torch.cat([kept, count], dim=1)


LAYER = RingAttentionLayer
