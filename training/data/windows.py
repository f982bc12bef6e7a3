"""Overlapping training sequences of one series, and the truths that lie ahead of each row."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from training.data.series import Series


class Windows(TorchDataset[tuple[Tensor, Tensor, Tensor]]):
    """Sequences `(x[T,F], time[T], truth[T,K])` of `num_steps` rows, `stride` rows apart.

    `truth[t, k]` is the target k + 1 rows after row t, NaN unless that row is in `counted`: no loss
    can reach a row outside it.
    """

    def __init__(
        self, series: Series, num_steps: int, stride: int, horizon: int, counted: range
    ) -> None:
        self._x = torch.from_numpy(series.values)
        self._time = torch.from_numpy(series.time_s)
        self._truth = torch.from_numpy(truths_ahead(series.values[:, 0], horizon, counted))
        self._num_steps = min(num_steps, counted.stop)
        last = counted.stop - self._num_steps
        # The newest rows are in a sequence even where the stride would step over them.
        self._starts = sorted({*range(0, last + 1, stride), last})

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        part = slice(self._starts[index], self._starts[index] + self._num_steps)
        return self._x[part], self._time[part], self._truth[part]


def truths_ahead(target: np.ndarray, horizon: int, counted: range) -> np.ndarray:
    """`target[N]` → `[N, K]`: entry `[t, k]` is row t + k + 1, NaN outside `counted`."""
    visible = np.full(len(target) + horizon, np.nan, dtype=np.float32)
    visible[counted.start : counted.stop] = target[counted.start : counted.stop]
    ahead = np.lib.stride_tricks.sliding_window_view(visible[1:], horizon)
    return np.array(ahead[: len(target)])
