"""A vector to a sequence: the stack reads a vector as its first input, then characters.

    vector ──MLP──┐
                  ├─→ recurrent stack → logits          (Show and Tell, Vinyals et al., 2015)
    character ────┘

At a step whose vector is known it is read in place of the character; elsewhere it is NaN, as values
are that are missing. So one graph reads both, and a stream of steps stays a stream of steps.

Axis legend: B rows, T steps, F values of a vector, V characters, S state size. The state is the
stack's.
"""

import torch
from torch import Tensor, nn

from training.config import CellConfig
from training.tasks.caption.options import CaptionOptions
from training.tasks.stack_network import StackNetwork


class CaptionNetwork(StackNetwork):
    """`(tokens[B,T], x[B,T,F], length[B], state[B,S]) → (logits[B,T,V], state[B,S])`."""

    def __init__(
        self, cell: CellConfig, num_values: int, num_characters: int, options: CaptionOptions
    ) -> None:
        super().__init__(cell, options.embedding_size, num_characters, options.dropout)
        self.embedding = nn.Embedding(num_characters, options.embedding_size)
        self.reader = nn.Sequential(
            nn.Linear(num_values, options.reader_size),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(options.reader_size, options.embedding_size),
        )

    def forward(
        self, tokens: Tensor, x: Tensor, length: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.logits((tokens, x), length, state)

    def features(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """`tokens[B,T]` and `x[B,T,F]` → what either becomes, `[B,T,E]`."""
        tokens, x = inputs
        is_known = torch.isfinite(x).all(dim=2, keepdim=True)
        seen = self.reader(torch.where(is_known, x, torch.zeros_like(x)))
        return torch.where(is_known, seen, self.embedding(tokens))
