import numpy as np

from training.evaluate import metrics
from training.evaluate.baselines.forecasting import (
    auto_ets,
    baselines_for,
    persistence,
    seasonal_naive,
)

TRUTH = np.array([[1.0, 2.0], [3.0, np.nan]])


def test_mase_is_one_for_the_seasonal_naive_on_its_own_rows() -> None:
    target = np.random.default_rng(0).normal(size=400).cumsum()
    origins = np.arange(6, 399)
    forecast = seasonal_naive(target, origins, 1, 7)
    unit = metrics.naive_error(target, 7)
    assert np.isclose(metrics.mase(target[origins + 1][:, None], forecast, unit), 1)


def test_missing_truths_count_in_no_metric() -> None:
    forecast = np.array([[2.0, 2.0], [3.0, 9e9]])
    np.testing.assert_allclose(metrics.mase(TRUTH, forecast, 2.0), [0.25, 0])
    np.testing.assert_allclose(metrics.smape(TRUTH, forecast), [100 / 3, 0])
    wql = metrics.weighted_quantile_loss(TRUTH, forecast[..., None], [0.5])
    np.testing.assert_allclose(wql, 1 / 6)
    np.testing.assert_allclose(metrics.coverage(TRUTH, forecast - 0.5, forecast + 0.5), [0.5, 1])
    above = np.stack([forecast - 0.5, forecast + 0.5], axis=-1)
    np.testing.assert_allclose(metrics.share_below(TRUTH, above), [[0.5, 1], [0, 1]])


def test_weighted_quantile_loss_punishes_the_unlikely_side() -> None:
    truth, low, high = np.array([[10.0]]), np.array([[[8.0]]]), np.array([[[12.0]]])
    assert metrics.weighted_quantile_loss(truth, low, [0.9]) > metrics.weighted_quantile_loss(
        truth, high, [0.9]
    )


def test_naive_baselines_never_look_past_their_origin() -> None:
    target = np.arange(40.0)
    origins = np.array([20, 30])
    np.testing.assert_array_equal(persistence(target, origins, 2, 7), [[20, 20], [30, 30]])
    forecast = seasonal_naive(target, origins, 15, 7)
    assert (forecast <= origins[:, None]).all()
    np.testing.assert_array_equal(forecast[0, [0, 6, 7, 13, 14]], [14, 20, 14, 20, 14])


def test_statistical_baseline_follows_a_weekly_rhythm() -> None:
    rng = np.random.default_rng(1)
    target = 10 + 5 * (np.arange(220) % 7 < 5) + 0.1 * rng.normal(size=220)
    forecast = auto_ets(target, np.array([199, 205]), 14, 7)
    assert forecast.shape == (2, 14)
    np.testing.assert_allclose(forecast[0], target[200:214], atol=0.6)


def test_a_constant_is_a_baseline_only_where_it_is_asked_for() -> None:
    assert set(baselines_for(None)) == {"persistence", "seasonal naive", "AutoETS"}
    wanted = baselines_for(0.0)
    assert set(wanted) - set(baselines_for(None)) == {"always 0"}
    forecast = wanted["always 0"](np.arange(9.0), np.arange(3, 6), 2, 7)
    np.testing.assert_array_equal(forecast, np.zeros((3, 2)))
