"""What a model must beat. Each takes `target[N]` and origins, and gives `[origins, K]`.

An origin is the last row that a forecast may see.
"""

import warnings
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Baseline = Callable[[Array, Array, int, int], Array]
"""(target, origins, horizon, season) → forecasts."""


def persistence(target: Array, origins: Array, horizon: int, season: int) -> Array:
    """The last known value."""
    return np.repeat(_fill(target)[origins][:, None], horizon, axis=1)


def seasonal_naive(target: Array, origins: Array, horizon: int, season: int) -> Array:
    """The value one season before, or as many seasons as reach back to the origin."""
    steps = np.arange(1, horizon + 1)
    back = steps - season * np.ceil(steps / season).astype(int)
    forecasts: Array = _fill(target)[origins[:, None] + back]
    return forecasts


def auto_ets(target: Array, origins: Array, horizon: int, season: int) -> Array:
    """Exponential smoothing, its form chosen by AICc (statsforecast's AutoETS).

    Chosen and fitted once on the rows before the first origin; at every origin the states, not the
    parameters, are brought up to date from the 104 seasons before it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own imports warn of their future
        from statsforecast.models import AutoETS

        filled = _fill(target).astype(np.float64)
        model = AutoETS(season_length=season).fit(filled[: origins[0] + 1])
        forecasts = [
            model.forward(filled[max(0, origin + 1 - 104 * season) : origin + 1], h=horizon)["mean"]
            for origin in origins
        ]
    return np.stack(forecasts)


BASELINES: dict[str, Baseline] = {
    "persistence": persistence,
    "seasonal naive": seasonal_naive,
    "AutoETS": auto_ets,
}


def constant(value: float) -> Baseline:
    """Always the same: of returns, 0 says that the price stays as it is."""

    def forecast(target: Array, origins: Array, horizon: int, season: int) -> Array:
        return np.full((len(origins), horizon), value)

    return forecast


def baselines_for(constant_value: float | None) -> dict[str, Baseline]:
    """All of them, and the constant one where a recipe asks for it."""
    if constant_value is None:
        return BASELINES
    return {f"always {constant_value:g}": constant(constant_value)} | BASELINES


def _fill(target: Array) -> Array:
    """Missing values take the last known one: a baseline may not be spared a hard row."""
    known = np.isfinite(target)
    index = np.maximum.accumulate(np.where(known, np.arange(len(target)), 0))
    return np.where(np.isfinite(target[index]), target[index], np.nanmean(target[known][:1]))
