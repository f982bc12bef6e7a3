"""A language model of characters: one-hot or embedded character → recurrent stack → logits.

Axis legend: B rows, T steps, V characters, S state size. The state is the stack's.
"""

import torch
from torch import Tensor, nn

from training.config import CellConfig
from training.tasks.stack_network import StackNetwork


class GenerateNetwork(StackNetwork):
    """`(tokens[B,T], length[B], state[B,S]) → (logits[B,T,V], state[B,S])`."""

    one_hot: Tensor

    def __init__(
        self, cell: CellConfig, num_characters: int, embedding_size: int | None, dropout: float
    ) -> None:
        size = embedding_size or num_characters
        # Made first, as ever: the weights that a seed gives depend on the order.
        embedding = nn.Embedding(num_characters, size) if embedding_size else None
        super().__init__(cell, size, num_characters, dropout)
        self.embedding = embedding
        self.register_buffer("one_hot", torch.eye(num_characters), persistent=False)

    def forward(self, tokens: Tensor, length: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits(tokens, length, state)

    def features(self, inputs: Tensor) -> Tensor:
        """`tokens[B,T]` → a row of the table for each."""
        table = self.one_hot if self.embedding is None else self.embedding.weight
        return nn.functional.embedding(inputs, table)
