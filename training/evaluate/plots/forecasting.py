"""Pictures of a forecaster: examples with bands, errors by horizon, calibration."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from training.data.series import Series
from training.evaluate.metrics import share_below
from training.evaluate.plots.figure import BLACK, BLUE, GREEN, GREY, ORANGE, style, to_png
from training.evaluate.report import Plot
from training.tasks.forecast.options import ForecastOptions

_RANKS = {"an easy one": 0.1, "a usual one": 0.5, "a hard one": 0.9, "the worst": 1.0}
"""Panel → share of the test origins with a smaller error: nobody picked them by eye."""


def plot_examples(
    series: Series,
    options: ForecastOptions,
    origins: np.ndarray,
    quantiles: np.ndarray,
    truth: np.ndarray,
) -> Plot:
    """Four origins by rank of their error: history, forecast and observed values."""
    levels, horizon = options.quantiles, options.horizon
    time = series.time_s.astype("datetime64[s]")
    target = series.columns[0]
    errors = np.abs(truth - quantiles[..., levels.index(0.5)])
    origins_known = np.flatnonzero(np.isfinite(errors).any(axis=1))  # no truth, nothing to show
    by_error = origins_known[np.argsort(np.nanmean(errors[origins_known], axis=1))]
    with style():
        figure = Figure(figsize=(9, 5.6), layout="constrained")
        panels = figure.subplots(2, 2, sharey=True).ravel()
        for panel, (title, rank) in zip(panels, _RANKS.items(), strict=True):
            n = by_error[int(rank * (len(by_error) - 1))]
            origin = origins[n]
            panel.set_title(f"{title}: {np.datetime_as_string(time[origin], 'D')}", fontsize=10)
            shown = slice(max(0, origin - max(2 * horizon, 14)), origin + horizon + 1)
            ahead, levels_ahead = time[origin + 1 : origin + horizon + 1], quantiles[n]
            if horizon == 1:  # one row has no width to be seen by
                ahead = ahead + np.array([-1, 1]) * (options.frequency_s // 2)
                levels_ahead = levels_ahead.repeat(2, axis=0)
            came = series.values[shown, 0]
            marker = "." if horizon == 1 else None
            panel.plot(time[shown], came, color=BLACK, lw=1.2, marker=marker, label="came")
            for low in range(len(levels) // 2):
                if levels[low] >= 0.5:
                    break
                band = f"{levels[-1 - low] - levels[low]:.0%}" if low == 0 else None
                panel.fill_between(
                    ahead,
                    levels_ahead[:, low],
                    levels_ahead[:, -1 - low],
                    color=BLUE,
                    alpha=0.16,
                    lw=0,
                    label=f"intervals, up to {band}" if band else None,
                )
            median = levels_ahead[:, levels.index(0.5)]
            panel.plot(ahead, median, color=BLUE, lw=1.8, label="median")
            panel.axvline(time[origin], color=GREY, lw=0.8, ls=":")
            locator = AutoDateLocator(maxticks=6)  # type: ignore[no-untyped-call]  # unannotated
            panel.xaxis.set_major_locator(locator)
            panel.xaxis.set_major_formatter(
                ConciseDateFormatter(locator, show_offset=False)  # type: ignore[no-untyped-call]  # so is this
            )
        unit = f" ({target.unit})" if target.unit else ""
        figure.supylabel(f"{target.name}{unit}", fontsize=10)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
        png = to_png(figure)
    caption = (
        "Forecasts from four origins (dotted lines) of the test rows, which lie at the 10th, 50th"
        " and 90th percentile of the error and at its end."
    )
    return Plot("forecasts.png", caption, png)


def plot_errors(scores: dict[str, np.ndarray], measure: str) -> Plot:
    """Errors by horizon, the model against its baselines; `measure` is MASE or MAE."""
    looks = {
        "this model": (BLUE, "o-", 2.2),
        "AutoETS": (GREEN, "s-", 1.4),
        "seasonal naive": (ORANGE, "^-", 1.4),
        "persistence": (GREY, ".-", 1.2),
    }
    constants = [name for name in scores if name.startswith("always ")]
    looks |= dict.fromkeys(constants, (BLACK, "D-", 1.2))
    with style():
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        steps = np.arange(1, len(scores["this model"]) + 1)
        for name, (colour, form, width) in looks.items():
            axes.plot(steps, scores[name], form, color=colour, lw=width, ms=4.5, label=name)
        is_log = _scale(axes, np.concatenate(list(scores.values())))
        axes.set_xlim(steps[0] - 0.4, steps[-1] + 0.4)
        axes.set_xlabel("rows ahead")
        axes.set_ylabel(f"{measure} (log scale)" if is_log else measure)
        if len(steps) <= 24:
            axes.set_xticks(steps)
        figure.legend(loc="outside upper center", ncols=len(looks))
        png = to_png(figure)
    scaled = " scaled" if measure == "MASE" else ""
    return Plot("errors.png", f"Mean absolute{scaled} error by horizon; lower is better.", png)


def _scale(axes: Axes, scores: np.ndarray) -> bool:
    """A log scale between powers of 2, unless all errors are 0, which it cannot show."""
    shown = np.log2(scores[np.isfinite(scores) & (scores > 0)])
    if len(shown) == 0:
        return False
    axes.set_yscale("log")
    bottom, top = np.floor(shown.min()), np.ceil(shown.max())
    top = max(top, bottom + 1)
    axes.set_ylim(2**bottom, 2**top)
    step = max(1, (top - bottom) // 12)
    ticks = 2.0 ** np.arange(bottom, top + 1, step)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    return True


def plot_coverage(levels: Sequence[float], truth: np.ndarray, quantiles: np.ndarray) -> Plot:
    """Share of truths below each quantile: of all horizons, and the range over single ones."""
    below = share_below(truth, quantiles)
    with style():
        figure = Figure(figsize=(5, 4.4), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="perfect")
        axes.fill_between(
            levels,
            below.min(axis=0),
            below.max(axis=0),
            color=BLUE,
            alpha=0.2,
            lw=0,
            label="range over horizons",
        )
        axes.plot(levels, below.mean(axis=0), "o-", color=BLUE, ms=5, label="all horizons")
        axes.set_xlabel("quantile level")
        axes.set_ylabel("share of truths below")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.legend(loc="upper left")
        png = to_png(figure)
    return Plot("coverage.png", "Calibration: a quantile should have its level below it.", png)
