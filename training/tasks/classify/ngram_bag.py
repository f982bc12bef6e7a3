"""Bags of n-grams that grow by one step at a time (after Joulin et al., 2017, "fastText").

Every run of 1, 2, … tokens has a small vector; runs longer than one share a hashed table. What
comes out at a step is the sum of all vectors so far over the square root of their number: it keeps
its scale however long the text, and still grows with the evidence.
"""

import torch
from torch import Tensor, nn

from training.tasks.classify.running_mean import running_mean
from training.tasks.classify.small_embedding import SmallEmbedding

# Odd and far apart: neighbouring tokens must not fall into neighbouring buckets.
_MULTIPLIERS = (1_000_003, 40_503_691, 87_178_291)
MAX_ORDER = 1 + len(_MULTIPLIERS)


class NgramBag(nn.Module):
    """Sums of the n-gram vectors of order 1 to `order`; in training, some n-grams are left out.

    State: the mean of each order's vectors, and the last `order - 1` tokens (as float32, exact for
    every vocabulary below 2^24), `[B, G·order + order - 1]`.
    """

    def __init__(
        self, vocabulary_size: int, order: int, num_buckets: int, size: int, dropout: float
    ) -> None:
        super().__init__()
        self.order = order
        self.num_buckets = num_buckets
        self.output_size = size * order
        self.state_size = self.output_size + order - 1
        rows = [vocabulary_size] + [num_buckets] * (order - 1)
        self.tables = nn.ModuleList([SmallEmbedding(n, size, spread=0.02) for n in rows])
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, length: Tensor, valid: Tensor, count: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """tokens[B,T], length[B], valid[B,T,1], count[B,1] of steps before → sums[B,T,G·order]."""
        mean, last = torch.split(state, [self.output_size, self.order - 1], dim=1)
        history = torch.cat([last.long(), tokens], dim=1)
        vectors = [
            table(ids) * self.dropout(torch.ones_like(valid))
            for table, ids in zip(self.tables, self._ids(history, tokens), strict=True)
        ]
        means, counts = running_mean(torch.cat(vectors, dim=2), valid, mean, count)
        new_last = history.gather(
            1, length.unsqueeze(1) + torch.arange(self.order - 1, device=length.device)
        )
        return means * counts.sqrt(), torch.cat([means[:, -1], new_last.to(mean.dtype)], dim=1)

    def _ids(self, history: Tensor, tokens: Tensor) -> list[Tensor]:
        """Row of each order's table for each step, `[B,T]`."""
        hashed = tokens
        ids = [tokens]
        for back, multiplier in enumerate(_MULTIPLIERS[: self.order - 1], start=1):
            start = self.order - 1 - back
            hashed = hashed + history[:, start : start + tokens.shape[1]] * multiplier
            ids.append(hashed % self.num_buckets)
        return ids
