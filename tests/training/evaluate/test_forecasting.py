"""Evaluation of a forecaster on series whose naive forecasts make no error."""

from typing import Any

import numpy as np
import pytest

from service.contract.manifest import ColumnSpec
from training.data.series import Series
from training.errors import DataError
from training.evaluate.forecasting import Split, evaluate_forecasts
from training.evaluate.plots.forecasting import plot_errors
from training.evaluate.report import Evaluation
from training.tasks.forecast.options import ForecastOptions
from training.tasks.forecast.task import _split

OPTIONS = ForecastOptions(
    kind="forecast",
    target="load",
    frequency="P1D",
    horizon=3,
    season=7,
    window=14,
    quantiles=(0.1, 0.5, 0.9),
    constant_baseline=0.0,
)


def series_of(target: np.ndarray) -> Series:
    time_s = 86_400 * np.arange(len(target), dtype=np.int64)
    column = ColumnSpec(name="load", role="target", unit="", description="")
    return Series(time_s, target.astype(np.float32)[:, None], (column,))


class AlwaysFour:
    """A model that forecasts 4, whatever it reads."""

    def answer(self, inputs: dict[str, Any], length: np.ndarray) -> tuple[dict[str, Any], None]:
        mean = np.full((1, int(length[0]), 3), 4.0)
        return {"mean": mean, "quantiles": mean[..., None] + np.array([-1, 0, 1])}, None


def evaluate(target: np.ndarray) -> Evaluation:
    return evaluate_forecasts(AlwaysFour(), series_of(target), OPTIONS, Split(130, 160), ())


WEEK = np.arange(200) % 7 + 1.0


@pytest.mark.parametrize("target", [np.full(200, 5.0), np.zeros(200), WEEK], ids=str)
def test_where_the_naive_makes_no_error_absolute_errors_stand_for_scaled_ones(
    target: np.ndarray,
) -> None:
    found = evaluate(target)
    assert {figure.metric for figure in found.figures} >= {"MAE", "MAE, horizon 1"}
    assert not any("MASE" in figure.metric for figure in found.figures)
    assert all(np.isfinite(figure.value) for figure in found.figures)
    mine = next(figure for figure in found.figures if figure.metric == "MAE, horizon 2")
    assert mine.value == pytest.approx(np.abs(target[161:199] - 4).mean(), abs=1e-4)
    assert mine.baseline_value == 0
    assert "against 0 of the 7-row seasonal naive" in found.summary
    assert "MASE is not defined" in found.tables[0].note
    shown = found.summary + str([table.rows for table in found.tables])
    assert "inf" not in shown
    assert "nan" not in shown


def test_a_series_with_errors_is_measured_as_before() -> None:
    found = evaluate(WEEK + np.random.default_rng(1).normal(size=200))
    assert found.figures[0].metric == "MASE"
    assert "below that of the 7-row seasonal naive" in found.summary


def test_errors_that_a_log_scale_cannot_show_do_not_limit_it() -> None:
    names = ("this model", "AutoETS", "seasonal naive", "persistence")
    for mine in ([0.0, 0.0], [1.0, 1.0], [1e-9, 3.0], [np.nan, 2.0]):
        scores = dict.fromkeys(names, np.zeros(2)) | {"this model": np.array(mine)}
        assert plot_errors(scores, "MAE").png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("gap", "says"),
    [
        (slice(0, 136), "no value in the training rows, 0 to 135 of 200"),
        (slice(136, 160), "no value in the validation rows, 136 to 159 of 200"),
        (slice(161, 200), "too few values in the test rows, 160 to 199: expected one at each of"),
    ],
)
def test_a_gap_over_all_rows_of_a_part_is_refused(gap: slice, says: str) -> None:
    target = WEEK.copy()
    _split(series_of(target), OPTIONS)
    target[gap] = np.nan
    with pytest.raises(DataError, match=says):
        _split(series_of(target), OPTIONS)
    target[gap.start + 1] = 3.0
    if gap.start != 161:
        _split(series_of(target), OPTIONS)
