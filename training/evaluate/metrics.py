"""Forecast metrics. Axis legend: N origins, K horizon, Q quantiles. NaN truths do not count."""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def naive_error(history: Array, season: int) -> float:
    """Mean absolute error of the seasonal naive on the training rows: the unit of MASE.

    0 where it makes none, or where no two rows a season apart are known: MASE is not defined then.
    """
    errors = np.abs(history[season:] - history[:-season])
    known = np.isfinite(errors)
    return float(np.nanmean(errors)) if known.any() else 0.0


def mase(truth: Array, forecast: Array, unit: float) -> Array:
    """`[N, K]` → `[K]`: mean absolute scaled error (Hyndman & Koehler, 2006)."""
    scaled: Array = np.nanmean(np.abs(truth - forecast), axis=0) / unit
    return scaled


def smape(truth: Array, forecast: Array) -> Array:
    """`[N, K]` → `[K]`: symmetric mean absolute percentage error, 0 to 200 %."""
    size = np.maximum(np.abs(truth) + np.abs(forecast), 1e-9)
    percent: Array = 200 * np.nanmean(np.abs(truth - forecast) / size, axis=0)
    return percent


def weighted_quantile_loss(truth: Array, quantiles: Array, levels: Sequence[float]) -> float:
    """Twice the pinball loss, summed over all levels' mean, over the sum of |truth|.

    `truth[N, K]`, `quantiles[N, K, Q]`. NaN where all truths are 0: it is not defined then.
    """
    errors = truth[..., None] - quantiles
    level = np.asarray(levels)
    losses = np.maximum(level * errors, (level - 1) * errors)
    known = np.isfinite(truth)
    size = np.abs(truth[known]).sum()
    return float(2 * losses[known].mean(axis=-1).sum() / size) if size else float("nan")


def share_below(truth: Array, quantiles: Array) -> Array:
    """`[N, K]`, `[N, K, Q]` → `[K, Q]`: share of truths at or below each quantile."""
    below = np.where(np.isfinite(truth)[..., None], truth[..., None] <= quantiles, np.nan)
    shares: Array = np.nanmean(below, axis=0)
    return shares


def coverage(truth: Array, lower: Array, upper: Array) -> Array:
    """`[N, K]` → `[K]`: share of truths inside the interval."""
    inside = np.where(np.isfinite(truth), (lower <= truth) & (truth <= upper), np.nan)
    shares: Array = np.nanmean(inside, axis=0)
    return shares
