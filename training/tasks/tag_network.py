"""A tagger: values and which of them are known → recurrent stack → probabilities at every row.

Axis legend: B rows, T steps, F columns, H hidden, C labels, S state size. The state is the stack's.

Rule 1: scaling and missing values are handled in here, and so in the graph.
Rule 2: a missing value enters as 0 beside a mask of 0; no NaN reaches the state.
"""

import torch
from torch import Tensor, nn

from training.cells.base import RecurrentStack, Translations
from training.config import CellConfig
from training.tasks.base import StreamNetwork

_LARGEST = 6.0
"""Spreads from the mean; what lies further out counts as this far."""


class TagNetwork(StreamNetwork):
    """`(x[B,T,F], length[B], state[B,S]) → (probabilities[B,T,C], state[B,S])`."""

    center: Tensor
    spread: Tensor

    def __init__(
        self, cell: CellConfig, center: Tensor, spread: Tensor, num_labels: int, dropout: float
    ) -> None:
        """`center[F]` and `spread[F]` standardise the columns (from training rows)."""
        super().__init__()
        self.register_buffer("center", center)
        self.register_buffer("spread", spread)
        self.stack = RecurrentStack(cell, 2 * len(center))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.stack.output_size, num_labels)

    @property
    def state_size(self) -> int:
        return self.stack.state_size

    def initial_state(self) -> Tensor:
        return self.stack.initial_state()

    @property
    def translations(self) -> Translations:
        return self.stack.translations

    def prepare_export(self) -> None:
        self.stack.prepare_export()

    def forward(self, x: Tensor, length: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        logits, state = self.logits(x, length, state)
        return torch.softmax(logits, dim=-1), state

    def logits(
        self, x: Tensor, length: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`[B,T,C]` and the state; length None: every row is full, state None: the start."""
        known = torch.isfinite(x)
        scaled = (torch.where(known, x, self.center) - self.center) / self.spread
        scaled = nn.functional.hardtanh(scaled, -_LARGEST, _LARGEST)
        hidden, state = self.stack(torch.cat([scaled, known.to(x.dtype)], dim=-1), length, state)
        return self.head(self.dropout(hidden)), state
