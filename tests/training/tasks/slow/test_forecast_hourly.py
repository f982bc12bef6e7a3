"""The same task on another rate and cell: hours, a daily season, an LSTM, gaps in the file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training.config import Recipe, parse_recipe
from training.errors import DataError
from training.export.bundle_writer import draft_bundle
from training.export.verify import verify
from training.fit.run_folder import RunFolder
from training.tasks.registry import make_task


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    hours = np.datetime64("2023-01-01T00", "h") + np.arange(900)
    load = 10 + 3 * np.sin(np.arange(900) * 2 * np.pi / 24) + rng.normal(size=900)
    lines = [
        f"{str(hour).replace('T', ' ')}:00,{value:.3f}"
        for hour, value in zip(hours, load, strict=True)
    ]
    path = tmp_path / "load.csv"
    path.write_text("\n".join(["time,load", *lines[:100], *lines[103:]]) + "\n")
    return path


def recipe(window: int = 48) -> Recipe:
    fields = {
        "name": "load",
        "version": "1",
        "title": "Load",
        "description": "Hourly load.",
        "seed": 1,
        "data": {"source": "csv_series"},
        "cell": {"kind": "lstm", "hidden_size": 6, "num_layers": 2},
        "fit": {"max_epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
        "task": {
            "kind": "forecast",
            "target": "load",
            "frequency": "PT1H",
            "horizon": 30,
            "season": 24,
            "window": window,
            "quantiles": [0.1, 0.5, 0.9],
        },
    }
    return parse_recipe(fields, "load.toml")


def test_an_hourly_lstm_passes_every_check_of_export(table: Path, tmp_path: Path) -> None:
    task = make_task(recipe(), str(table))
    torch.manual_seed(0)
    network = task.network().eval()
    run = RunFolder.create(tmp_path, recipe(), str(table), "")
    bundle = draft_bundle(task, network, run)
    verify(bundle, network, task.example_inputs(1, 300))
    assert bundle.manifest.forecast.frequency_s == 3600
    assert bundle.manifest.training.data[0].licence == "yours to know"


def test_every_batch_of_the_training_rows_gives_a_finite_gradient(table: Path) -> None:
    task = make_task(recipe(), str(table))
    network = task.network()
    for batch in task.train_batches(with_validation=True):
        task.loss(network, batch).backward()
    for parameter in network.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_too_few_rows_for_the_window_say_how_many_are_needed(table: Path) -> None:
    with pytest.raises(DataError, match=r"900 rows are too few: .*need at least 660 training rows"):
        make_task(recipe(window=600), str(table))
