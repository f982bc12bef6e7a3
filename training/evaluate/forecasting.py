"""Rolling-origin evaluation of an exported forecaster: one stream, a forecast at every row.

Axis legend: N origins, K horizon, Q quantiles.

The graph is fed as a session would be, from the first row on, and its answers at every origin are
compared with the observed values. Point forecasts are medians, which minimise absolute errors.
"""

from dataclasses import dataclass

import numpy as np

from service.contract.manifest import QualityFigure
from training.data.series import Series
from training.data.windows import truths_ahead
from training.evaluate import metrics
from training.evaluate.baselines.forecasting import baselines_for
from training.evaluate.plots.forecasting import plot_coverage, plot_errors, plot_examples
from training.evaluate.report import Evaluation, Table
from training.evaluate.served_model import ServedModel
from training.tasks.forecast.calendar import DAY_S
from training.tasks.forecast.options import ForecastOptions


@dataclass(frozen=True, slots=True)
class Split:
    """Rows from which on validation and test begin."""

    validation_start: int
    test_start: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """Truths `[N, K]`, the model's mean and quantiles, and the baselines' points by name."""

    origins: np.ndarray
    truth: np.ndarray
    mean: np.ndarray
    quantiles: np.ndarray
    baselines: dict[str, np.ndarray]
    naive_error: float
    """Mean absolute error of the seasonal naive before the first origin."""

    @property
    def unit(self) -> float:
        return self.naive_error or 1.0

    @property
    def measure(self) -> str:
        """Where the seasonal naive made no error, errors cannot be scaled by it."""
        return "MASE" if self.naive_error else "MAE"


def backtest(model: ServedModel, series: Series, options: ForecastOptions, rows: range) -> Backtest:
    """Forecast at every origin whose K targets all lie in `rows`."""
    end = rows.stop
    x = series.values[None, :end]
    time = series.time_s[None, :end]
    answers, _ = model.answer({"x": x, "time": time}, np.array([end]))
    origins = np.arange(rows.start - 1, end - options.horizon)
    target = series.values[:end, 0]
    return Backtest(
        origins=origins,
        truth=truths_ahead(target, options.horizon, rows)[origins],
        mean=answers["mean"][0, origins],
        quantiles=answers["quantiles"][0, origins],
        baselines={
            name: baseline(target, origins, options.horizon, options.season)
            for name, baseline in baselines_for(options.constant_baseline).items()
        },
        naive_error=metrics.naive_error(target[: rows.start], options.season),
    )


def evaluate_forecasts(
    model: ServedModel,
    series: Series,
    options: ForecastOptions,
    split: Split,
    caveats: tuple[str, ...],
) -> Evaluation:
    """Figures, tables and pictures on the test rows."""
    rows = range(split.test_start, len(series.values))
    test = backtest(model, series, options, rows)
    median = test.quantiles[..., options.quantiles.index(0.5)]
    points = {"this model": median, "this model's mean": test.mean, **test.baselines}
    scores = {name: metrics.mase(test.truth, point, test.unit) for name, point in points.items()}
    ends = series.time_s[[rows.start, rows.stop - 1]].astype("M8[s]")
    days = np.datetime_as_string(ends, "D" if options.frequency_s >= DAY_S else "m")
    covered = metrics.coverage(test.truth, test.quantiles[..., 0], test.quantiles[..., -1])
    share = options.quantiles[-1] - options.quantiles[0]
    summary = (
        f"On the last {len(rows):,} rows ({days[0]} to {days[1]}, forecast anew at every one of"
        f" {len(test.origins):,} origins), its {_against_naive(scores, test.measure)} the"
        f" {options.season}-row seasonal naive, by horizon, and its {share:.0%}"
        f" intervals hold {_span(covered, '.1%')} of the truths."
    )
    if options.constant_baseline is not None:
        summary += _against_constant(scores, options.constant_baseline)
    return Evaluation(
        summary=summary,
        figures=_figures(test, options, scores, covered, str(rows)),
        tables=(
            _overview(test, options, points, scores),
            _by_horizon(test, options, scores, covered, share),
        ),
        plots=(
            plot_examples(series, options, test.origins, test.quantiles, test.truth),
            plot_errors(scores, test.measure),
            plot_coverage(options.quantiles, test.truth, test.quantiles),
        ),
        caveats=caveats,
    )


def _span(values: np.ndarray, form: str) -> str:
    """The least and the largest, or the only one."""
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"


def _against_naive(scores: dict[str, np.ndarray], measure: str) -> str:
    mine, naive = scores["this model"], scores["seasonal naive"]
    if (naive == 0).any():
        return f"{measure} is {_span(mine, '.3g')}, against {_span(naive, '.3g')} of"
    return f"mean absolute error is {_span(1 - mine / naive, '.0%')} below that of"


def _gain(mine: float, naive: float) -> str:
    """On the seasonal naive; there is none to tell where that makes no error."""
    return f"{1 - mine / naive:+.1%}" if naive else "–"


def _against_constant(scores: dict[str, np.ndarray], constant: float) -> str:
    """A series without memory is forecast best by a constant; then this must be said."""
    rival = scores[f"always {constant:g}"].mean()
    if rival == 0:
        return f" Always forecasting {constant:g} makes no error at all."
    gain = 1 - scores["this model"].mean() / rival
    word = "below" if gain > 0 else "above"
    said = f" Against always forecasting {constant:g} it lies {abs(gain):.1%} {word}"
    return said + (": no gain worth the name." if gain < 0.01 else ".")


def _overview(
    test: Backtest,
    options: ForecastOptions,
    points: dict[str, np.ndarray],
    scores: dict[str, np.ndarray],
) -> Table:
    rows = []
    naive = scores["seasonal naive"].mean()
    for name, point in points.items():
        error = point - test.truth
        quantiles = test.quantiles if name == "this model" else None
        wql = (
            metrics.weighted_quantile_loss(test.truth, quantiles, options.quantiles)
            if quantiles is not None
            else metrics.weighted_quantile_loss(test.truth, point[..., None], [0.5])
        )
        rows.append(
            (
                name,
                f"{scores[name].mean():.3f}",
                _gain(scores[name].mean(), naive),
                f"{metrics.smape(test.truth, point).mean():.1f}",
                f"{np.sqrt(np.nanmean(np.square(error, dtype=np.float64))):.3f}",
                "–" if np.isnan(wql) else f"{wql:.4f}",
            )
        )
    return Table(
        "All horizons together",
        ("forecast", test.measure, "gain on seasonal naive", "sMAPE %", "RMSE", "WQL"),
        rows,
        f"{_explain(test)} WQL: weighted quantile loss over the levels"
        f" {', '.join(map(str, options.quantiles))}; of point forecasts, of the point.",
    )


def _explain(test: Backtest) -> str:
    if test.measure == "MASE":
        return (
            "MASE: absolute error over that of the seasonal naive on the rows before the test rows"
            f" ({test.unit:.3f})."
        )
    return (
        "MAE: absolute error; the seasonal naive has none on the rows before the test rows, so"
        " that MASE is not defined."
    )


def _by_horizon(
    test: Backtest,
    options: ForecastOptions,
    scores: dict[str, np.ndarray],
    covered: np.ndarray,
    share: float,
) -> Table:
    baselines = list(baselines_for(options.constant_baseline))
    rows = [
        (
            str(k + 1),
            f"{scores['this model'][k]:.3f}",
            *(f"{scores[name][k]:.3f}" for name in baselines),
            _gain(scores["this model"][k], scores["seasonal naive"][k]),
            f"{covered[k]:.1%}",
        )
        for k in range(options.horizon)
    ]
    return Table(
        f"{test.measure} by horizon",
        (
            "rows ahead",
            "this model",
            *baselines,
            "gain on seasonal naive",
            f"in {share:.0%} interval",
        ),
        rows,
    )


def _figures(
    test: Backtest,
    options: ForecastOptions,
    scores: dict[str, np.ndarray],
    covered: np.ndarray,
    split: str,
) -> tuple[QualityFigure, ...]:
    mine, naive = scores["this model"], scores["seasonal naive"]
    split = f"test rows {split.removeprefix('range')}, rolling origin"

    def against(name: str, baseline: str) -> QualityFigure:
        return QualityFigure(
            metric=name,
            value=round(float(mine.mean()), 4),
            split=split,
            baseline=baseline,
            baseline_value=round(float(scores[baseline].mean()), 4),
        )

    by_horizon = [
        QualityFigure(
            metric=f"{test.measure}, horizon {k + 1}",
            value=round(float(mine[k]), 4),
            split=split,
            baseline="seasonal naive",
            baseline_value=round(float(naive[k]), 4),
        )
        for k in range(options.horizon)
    ]
    wql = metrics.weighted_quantile_loss(test.truth, test.quantiles, options.quantiles)
    figure = QualityFigure(metric="WQL", value=round(wql, 4), split=split)
    wql_figure = (figure,) if np.isfinite(wql) else ()
    share = options.quantiles[-1] - options.quantiles[0]
    return (
        *(against(test.measure, baseline) for baseline in test.baselines),
        *by_horizon,
        *wql_figure,
        QualityFigure(
            metric=f"coverage of {share:.0%} intervals",
            value=round(float(covered.mean()), 4),
            split=split,
        ),
    )
