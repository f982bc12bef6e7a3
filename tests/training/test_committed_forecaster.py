"""The forecaster that is shipped: made by the committed recipe, and as good as it says."""

from pathlib import Path

import numpy as np
import pytest

from service.contract.bundle import Bundle, read_bundle
from service.contract.golden import check_golden
from training.config import load_recipe, parse_recipe
from training.data.dataset import PACKAGED, hash_files
from training.evaluate import metrics
from training.evaluate.baselines.forecasting import seasonal_naive
from training.evaluate.served_model import ServedModel, make_run
from training.tasks.forecast.task import ForecastTask
from training.tasks.registry import make_task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(ROOT / "models" / "transit-ridership" / "1")


@pytest.fixture(scope="module")
def task(bundle: Bundle) -> ForecastTask:
    task = make_task(parse_recipe(bundle.manifest.training.recipe, "manifest"), None)
    assert isinstance(task, ForecastTask)
    return task


def test_it_reproduces_its_golden_run(bundle: Bundle) -> None:
    check_golden(bundle, make_run(bundle.graph))


def test_it_was_made_by_the_committed_recipe_from_the_packaged_data(bundle: Bundle) -> None:
    training = bundle.manifest.training
    recipe = load_recipe(ROOT / "training" / "recipes" / "transit-ridership.toml")
    assert parse_recipe(training.recipe, "manifest") == recipe
    assert training.command == "python -m training fit training/recipes/transit-ridership.toml"
    assert training.data[0].sha256 == hash_files(PACKAGED / "chicago_ridership.csv.gz")


def test_it_beats_the_seasonal_naive_by_a_quarter_at_every_horizon(
    bundle: Bundle, task: ForecastTask
) -> None:
    """Measured here, without the code that wrote the card."""
    target = task.series.values[:, 0].astype(np.float64)
    inputs = {"x": task.series.values[None], "time": task.series.time_s[None]}
    answers, _ = ServedModel.from_bundle(bundle).answer(inputs, np.array([len(target)]))
    origins = np.arange(4557, 5698 - 14)
    truth = np.stack([target[origins + h] for h in range(1, 15)], axis=1)
    naive_error = np.abs(seasonal_naive(target, origins, 14, 7) - truth).mean(axis=0)
    quantiles = answers["quantiles"][0, origins]
    for point in (quantiles[..., 4], answers["mean"][0, origins]):
        assert (np.abs(point - truth).mean(axis=0) <= 0.75 * naive_error).all()
    covered = metrics.coverage(truth, quantiles[..., 0], quantiles[..., -1])
    assert (covered >= 0.85).all()
    assert (covered <= 0.95).all()


def test_its_manifest_states_the_figures_by_horizon(bundle: Bundle) -> None:
    by_horizon = [f for f in bundle.manifest.quality if f.metric.startswith("MASE, horizon")]
    assert len(by_horizon) == 14
    for figure in by_horizon:
        assert figure.baseline == "seasonal naive"
        assert figure.baseline_value is not None
        assert figure.value <= 0.75 * figure.baseline_value
