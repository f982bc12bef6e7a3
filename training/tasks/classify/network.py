"""A text classifier that answers after every token.

tokens → embedding → recurrent stack → what stands at this step, the mean so far, and an attention
mean so far; beside it a bag of n-grams; both → head → probabilities.

Axis legend: B rows, T steps, H hidden, E embedding, G n-gram vector, S state size, C classes.
State `[B,S]`, in this order: stack, mean of the stack's outputs (H), attention mean (2H), n-gram
bag, count of steps (1).
"""

import torch
from torch import Tensor, nn

from training.cells.base import RecurrentStack, Translations
from training.config import CellConfig
from training.data.tokenizer import UNKNOWN_TOKEN
from training.tasks.base import StreamNetwork
from training.tasks.classify.ngram_bag import NgramBag
from training.tasks.classify.options import ClassifyOptions
from training.tasks.classify.running_mean import AttentionMean, running_mean
from training.tasks.classify.small_embedding import SmallEmbedding

_COUNT_SCALE = 4.0


class ClassifyNetwork(StreamNetwork):
    """`(tokens[B,T], length[B], state[B,S]) → (probabilities[B,T,C], state[B,S])`."""

    calibration: Tensor
    """a, b, c and the longest l: see `training/tasks/classify/calibration.py`, which sets them."""

    def __init__(self, options: ClassifyOptions, cell: CellConfig, num_classes: int) -> None:
        super().__init__()
        self.embedding = SmallEmbedding(options.vocabulary_size, options.embedding_size, spread=0.1)
        self.stack = RecurrentStack(cell, options.embedding_size)
        hidden = self.stack.output_size
        self.attention = AttentionMean(hidden)
        self.bag = NgramBag(
            options.vocabulary_size,
            options.ngram_order,
            options.ngram_buckets,
            options.ngram_size,
            options.ngram_dropout,
        )
        self.token_dropout = options.token_dropout
        self.embedding_dropout = nn.Dropout1d(options.embedding_dropout)
        counted = self.bag.output_size + 1
        self.head = nn.Sequential(
            nn.Dropout(options.head_dropout),
            nn.Linear(3 * hidden + counted, options.head_size),
            nn.ReLU(),
            nn.Dropout(options.head_dropout),
            nn.Linear(options.head_size, num_classes),
        )
        self.shortcut = nn.Linear(counted, num_classes)
        self.register_buffer("calibration", torch.zeros(4))
        self._parts = [
            self.stack.state_size,
            hidden,
            self.attention.state_size,
            self.bag.state_size,
            1,
        ]

    @property
    def state_size(self) -> int:
        return sum(self._parts)

    def initial_state(self) -> Tensor:
        stack = self.stack.initial_state()
        return torch.cat([stack, torch.zeros(self.state_size - len(stack))])

    @property
    def translations(self) -> Translations:
        return self.stack.translations

    def prepare_export(self) -> None:
        self.stack.prepare_export()
        for module in self.modules():
            if isinstance(module, SmallEmbedding):
                module.prepare_export()

    def forward(self, tokens: Tensor, length: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        features, counts, new_state = self._read(tokens, length, state)
        probabilities = torch.softmax(self._calibrated(self._decide(features), counts), dim=2)
        return probabilities, new_state

    def logits(self, tokens: Tensor, length: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B,P,C]` after the steps `[B,P]` of whole texts, and the counts `[B,P,1]`.

        Not calibrated: this is what is trained and what calibration starts from.
        """
        state = self.initial_state().to(self.calibration.device).expand(len(tokens), -1)
        features, counts, _ = self._read(tokens, length, state)
        index = steps.unsqueeze(2)
        picked = features.gather(1, index.expand(-1, -1, features.shape[2]))
        return self._decide(picked), counts.gather(1, index)

    def _read(self, tokens: Tensor, length: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features `[B,T,·]`, counts `[B,T,1]` and the state after each row's last valid step."""
        stack, mean, attention, bag, count = torch.split(state, self._parts, dim=1)
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        valid = (steps < length.unsqueeze(1)).unsqueeze(2).to(state.dtype)
        if self.training:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.token_dropout
            tokens = tokens.masked_fill(dropped, UNKNOWN_TOKEN)
        # Training needs no state after the last step, so rows may run on into their padding.
        embedded = self.embedding_dropout(self.embedding(tokens).transpose(1, 2)).transpose(1, 2)
        hidden, stack = self.stack(embedded, None if self.training else length, stack)
        means, counts = running_mean(hidden, valid, mean, count)
        attended, attention = self.attention(hidden, valid, attention)
        grams, bag = self.bag(tokens, length, valid, count, bag)
        log_counts = counts.clamp(min=1).log() / _COUNT_SCALE
        new_state = torch.cat([stack, means[:, -1], attention, bag, counts[:, -1]], dim=1)
        new_state = torch.where((length == 0).unsqueeze(1), state, new_state)
        return torch.cat([hidden, means, attended, grams, log_counts], dim=2), counts, new_state

    def _decide(self, features: Tensor) -> Tensor:
        counted = features[:, :, -self.shortcut.in_features :]
        logits: Tensor = self.head(features) + self.shortcut(counted)
        return logits

    def _calibrated(self, logits: Tensor, counts: Tensor) -> Tensor:
        a, b, c, longest = self.calibration.unbind()
        read = torch.minimum(counts.clamp(min=1).log(), longest)
        return logits * torch.exp(a + b * read + c * read.square())
