"""Quantiles that cannot cross, the mean beside them, and the loss that trains both.

Axis legend: B rows, T steps, K horizon, Q quantiles.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class QuantileHead(nn.Module):
    """`[…, M]` → mean `[…]` and quantiles `[…, Q]`, as offsets from a base value.

    The middle level is free; every other one is reached from its neighbour by a step that softplus
    keeps positive, so order is a property of the graph and not of the training.
    """

    def __init__(self, input_size: int, levels: Sequence[float]) -> None:
        super().__init__()
        self.middle = min(range(len(levels)), key=lambda i: abs(levels[i] - 0.5))
        self.num_levels = len(levels)
        self.linear = nn.Linear(input_size, 1 + len(levels))
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.constant_(self.linear.bias, -2.0)  # narrow steps: softplus(-2) is 0.13
        nn.init.zeros_(self.linear.bias[:2])

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mean, middle, steps = torch.split(self.linear(hidden), [1, 1, self.num_levels - 1], dim=-1)
        below, above = torch.split(
            functional.softplus(steps), [self.middle, self.num_levels - 1 - self.middle], dim=-1
        )
        parts = [middle]
        if self.middle:
            parts.insert(0, (middle - torch.cumsum(below, dim=-1)).flip(-1))
        if self.num_levels - 1 - self.middle:
            parts.append(middle + torch.cumsum(above, dim=-1))
        return mean.squeeze(-1), torch.cat(parts, dim=-1)


def fit_widening(truth: Tensor, quantiles: Tensor, levels: Tensor) -> Tensor:
    """The factor on all distances from the median at which the outermost interval holds its share.

    `truth[N]` and `quantiles[N, Q]` are of rows that the network did not train on; this is split
    conformal prediction (Romano et al., 2019) with one score: how many half-widths off a truth is.
    NaN truths do not count.
    """
    known = torch.isfinite(truth)
    truth, quantiles = truth[known], quantiles[known]
    middle = quantiles[:, int((levels - 0.5).abs().argmin())]
    distance = truth - middle
    half_width = torch.where(distance > 0, quantiles[:, -1] - middle, middle - quantiles[:, 0])
    scores = distance.abs() / half_width.clamp(min=1e-6)
    return torch.quantile(scores, float(levels[-1] - levels[0]))


def pinball(errors: Tensor, levels: Tensor) -> Tensor:
    """Quantile loss of `errors[…, Q]` = truth − forecast (Koenker & Bassett, 1978)."""
    return torch.maximum(levels * errors, (levels - 1) * errors)


def forecast_loss(
    truth: Tensor, mean: Tensor, quantiles: Tensor, levels: Tensor, mean_weight: float
) -> Tensor:
    """Mean pinball loss plus a share of the squared error; NaN in `truth[B,T,K]` does not count."""
    known = torch.isfinite(truth)
    filled = torch.where(known, truth, torch.zeros_like(truth))
    errors = pinball(filled.unsqueeze(-1) - quantiles, levels).mean(dim=-1)
    # Rare days are many scales off: beyond two of them the pull of a day stops growing.
    squared = functional.huber_loss(mean, filled, reduction="none", delta=2.0)
    total = torch.where(known, errors + mean_weight * squared, torch.zeros_like(errors))
    return total.sum() / known.sum().clamp(min=1)
