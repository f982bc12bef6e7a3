"""Weighted running means along time, carried as mean and total weight.

A carried *sum* would lose digits as a stream grows; a mean does not. Each call adds the weighted
distances from the mean so far, so values of any size and slices of any length agree.
"""

import torch
from torch import Tensor, nn

_NO_WEIGHT = 1e-12


def running_mean(
    values: Tensor, weights: Tensor, mean: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean of everything seen up to each step, `[B,T,F]`, and the weight seen, `[B,T,1 or F]`.

    Shapes: values[B,T,F], weights[B,T,1 or F] (0 where a step does not count), mean[B,F],
    total[B,1 or F]. Before anything was seen the mean stays as it is.
    """
    before = mean.unsqueeze(1)
    totals = total.unsqueeze(1) + weights.cumsum(1)
    moved = ((values - before) * weights).cumsum(1)
    return before + moved / totals.clamp(min=_NO_WEIGHT), totals


class AttentionMean(nn.Module):
    """A mean in which each feature of each step says itself how much it counts.

    The weight of feature f at step t is `exp(s · tanh(score_tf))`, from exp(-s) to exp(s): bounded,
    so that no running maximum has to be carried to keep the exponentials finite.
    State: mean and total weight, `[B, 2F]`.
    """

    SHARPNESS = 3.0

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.score = nn.Linear(num_features, num_features)
        self.state_size = 2 * num_features

    def forward(self, values: Tensor, valid: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """values[B,T,F], valid[B,T,1] (0 or 1) → means[B,T,F], state after the last step."""
        mean, total = state.chunk(2, dim=1)
        weights = torch.exp(self.SHARPNESS * torch.tanh(self.score(values))) * valid
        means, totals = running_mean(values, weights, mean, total)
        return means, torch.cat([means[:, -1], totals[:, -1]], dim=1)
