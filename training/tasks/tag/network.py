"""A tagger: values and which of them are known → recurrent stack → probabilities at every row.

Axis legend: B rows, T steps, F columns, C labels, S state size. The state is the stack's.

Rule 1: scaling and missing values are handled in here, and so in the graph.
Rule 2: a missing value enters as 0 beside a mask of 0; no NaN reaches the state.
"""

import torch
from torch import Tensor, nn

from training.config import CellConfig
from training.tasks.stack_network import StackNetwork

_LARGEST = 6.0
"""Spreads from the mean; what lies further out counts as this far."""


class TagNetwork(StackNetwork):
    """`(x[B,T,F], length[B], state[B,S]) → (probabilities[B,T,C], state[B,S])`."""

    center: Tensor
    spread: Tensor

    def __init__(
        self, cell: CellConfig, center: Tensor, spread: Tensor, num_labels: int, dropout: float
    ) -> None:
        """`center[F]` and `spread[F]` standardise the columns (from training rows)."""
        super().__init__(cell, 2 * len(center), num_labels, dropout)
        self.register_buffer("center", center)
        self.register_buffer("spread", spread)

    def forward(self, x: Tensor, length: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        logits, state = self.logits(x, length, state)
        return torch.softmax(logits, dim=-1), state

    def features(self, inputs: Tensor) -> Tensor:
        """`x[B,T,F]` → scaled values, and which are known, `[B,T,2F]`."""
        known = torch.isfinite(inputs)
        scaled = (torch.where(known, inputs, self.center) - self.center) / self.spread
        scaled = nn.functional.hardtanh(scaled, -_LARGEST, _LARGEST)
        return torch.cat([scaled, known.to(inputs.dtype)], dim=-1)
