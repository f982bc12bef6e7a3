"""A language model of characters: one-hot or embedded character → recurrent stack → logits.

Axis legend: B rows, T steps, H hidden, V characters, S state size. The state is the stack's.
"""

import torch
from torch import Tensor, nn

from training.cells.base import RecurrentStack, Translations
from training.config import CellConfig
from training.tasks.base import StreamNetwork


class GenerateNetwork(StreamNetwork):
    """`(tokens[B,T], length[B], state[B,S]) → (logits[B,T,V], state[B,S])`."""

    one_hot: Tensor

    def __init__(
        self, cell: CellConfig, num_characters: int, embedding_size: int | None, dropout: float
    ) -> None:
        super().__init__()
        self.register_buffer("one_hot", torch.eye(num_characters), persistent=False)
        size = embedding_size or num_characters
        self.embedding = nn.Embedding(num_characters, size) if embedding_size else None
        self.stack = RecurrentStack(cell, size)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.stack.output_size, num_characters)

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

    def forward(self, tokens: Tensor, length: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.read(tokens, length, state)

    def read(
        self, tokens: Tensor, length: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As `forward`; length None: every row is full, state None: the start."""
        table = self.one_hot if self.embedding is None else self.embedding.weight
        hidden, state = self.stack(nn.functional.embedding(tokens, table), length, state)
        return self.head(self.dropout(hidden)), state
