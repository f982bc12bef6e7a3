"""Tokenised texts, and batches of texts of like length.

A batch is as long as its longest text, so texts are sorted by length within windows of many
batches: little padding, and still another order in every epoch.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from service.contract.text import TextCodec
from training.data.labelled_texts import LabelledTexts
from training.data.tokenizer import NONE_TOKEN

_WINDOW_BATCHES = 50

TextBatch = tuple[Tensor, Tensor, Tensor]
"""tokens[B,T], length[B], label[B]"""


class TokenRows(Dataset[int]):
    """Texts as tokens, in one array. An item is its row number; `batch` makes tensors of rows."""

    def __init__(self, texts: LabelledTexts, codec: TextCodec, max_tokens: int | None) -> None:
        rows = [np.array(_shorten(codec.encode(text), max_tokens)) for text in texts.texts]
        self.length = np.array([len(row) for row in rows], dtype=np.int64)
        self.labels = texts.labels
        self._tokens = np.concatenate(rows).astype(np.int32)
        self._start = np.concatenate([[0], np.cumsum(self.length)])

    def __len__(self) -> int:
        return len(self.length)

    def __getitem__(self, row: int) -> int:
        return row

    def batch(self, rows: Sequence[int]) -> TextBatch:
        """Rows side by side, padded at their ends."""
        index = np.asarray(rows)
        length = self.length[index]
        tokens = np.full((len(index), int(length.max())), NONE_TOKEN, dtype=np.int64)
        for place, row in enumerate(index):
            tokens[place, : length[place]] = self._tokens[self._start[row] : self._start[row + 1]]
        return (
            torch.from_numpy(tokens),
            torch.from_numpy(length),
            torch.from_numpy(self.labels[index]),
        )


class ShuffledRows(Sampler[int]):
    """Every row number once, in a new order for every epoch."""

    def __init__(self, rows: TokenRows) -> None:
        self.dataset = rows

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(len(self)).tolist()


class LikeLengthBatches(BatchSampler):
    """Row numbers of each batch, from a sampler of `TokenRows` that it has as `dataset`.

    Made from a sampler, a batch size and `drop_last`, because that is how Lightning makes another
    one for each process, with its own sampler of a share of the rows. No row is ever dropped.
    """

    def __init__(
        self, sampler: ShuffledRows | DistributedSampler[int], batch_size: int, drop_last: bool
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        assert isinstance(sampler.dataset, TokenRows)
        self._length = sampler.dataset.length

    def __iter__(self) -> Iterator[list[int]]:
        shuffled = np.fromiter(self.sampler, dtype=np.int64)
        window = self.batch_size * _WINDOW_BATCHES
        batches = []
        for start in range(0, len(shuffled), window):
            rows = shuffled[start : start + window]
            rows = rows[np.argsort(self._length[rows], kind="stable")]
            batches += [
                rows[place : place + self.batch_size].tolist()
                for place in range(0, len(rows), self.batch_size)
            ]
        for place in torch.randperm(len(batches)).tolist():
            yield batches[place]


def batches_by_length(length: np.ndarray, max_cells: int) -> Iterator[np.ndarray]:
    """Every row once, longest first, in batches of at most `max_cells` tokens, padding included."""
    order = np.argsort(-length, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, max_cells // int(length[order[start]]))
        yield order[start : start + size]
        start += size


def _shorten(tokens: list[int], max_tokens: int | None) -> list[int]:
    """Opinions are summed up at the end and announced at the start: the middle goes first."""
    if max_tokens is None or len(tokens) <= max_tokens:
        return tokens
    head = max_tokens // 4
    return tokens[:head] + tokens[head - max_tokens :]
