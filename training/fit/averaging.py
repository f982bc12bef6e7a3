"""Exponential weight averaging that forgets the untrained weights it starts from.

With a constant decay of 0.99, a tenth of the initial weights is still there after 230 steps, and
the averaged network looks worse than it is for many epochs. Here the decay grows with the number
of averaged steps, from 0.1 up to its limit (as TensorFlow's ExponentialMovingAverage does).
"""

from functools import partial

from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


def weight_averaging(decay: float) -> WeightAveraging:
    """A callback that validates, saves and ends with the averaged weights.

    Buffers are copied, not averaged: tables and counts have no mean.
    """
    return WeightAveraging(use_buffers=False, avg_fn=partial(average, decay))


def average(decay: float, averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
    """One update of one parameter."""
    num_steps = float(num_averaged)
    share = max(1 - decay, 1 - (1 + num_steps) / (10 + num_steps))
    return averaged + share * (current - averaged)
