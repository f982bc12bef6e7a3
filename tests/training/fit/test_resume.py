"""Runs that are cut short go on where they were, and finished ones are left alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from training.config import Recipe, parse_recipe
from training.errors import RunError
from training.fit.run_folder import RunFolder
from training.fit.trainer import FitOptions, fit
from training.tasks.forecast.task import ForecastTask
from training.tasks.registry import make_task

QUIET = FitOptions(accelerator="cpu", progress=False)
RESUME = FitOptions(accelerator="cpu", progress=False, resume=True)


class PowerCutError(Exception):
    pass


@pytest.fixture
def recipe(transit_fields: dict[str, Any]) -> Recipe:
    transit_fields["fit"] |= {"max_epochs": 3, "refit_on_validation": False}
    return parse_recipe(transit_fields, "tiny")


def test_a_resumed_run_trains_only_the_epochs_that_are_left(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(recipe, None)
    run = RunFolder.create(tmp_path, recipe, None, "")
    with monkeypatch.context() as patch:
        patch.setattr(ForecastTask, "validation_loss", cut_power_at_call(2))
        with pytest.raises(PowerCutError):
            fit(task, run, QUIET)
    with pytest.raises(RunError, match="not finished"):
        run.load_weights()

    fit(task, RunFolder.newest(tmp_path, recipe), RESUME)

    second = (run.path / "search" / "logs" / "version_1" / "metrics.csv").read_text()
    assert {line.split(",")[0] for line in second.splitlines()[1:]} == {"1", "2"}
    assert [epoch for epoch, _ in run.history()["search"]["train_loss"]] == [0, 1, 2]
    assert run.load_weights()

    fit(task, RunFolder.newest(tmp_path, recipe), RESUME)
    assert not (run.path / "search" / "logs" / "version_2").exists()


def test_the_same_recipe_gives_the_same_weights(recipe: Recipe, tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path, recipe, None, "") for _ in range(2)]
    for run in runs:
        fit(make_task(recipe, None), run, QUIET)
    first, second = (run.load_weights() for run in runs)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0)


def test_runs_are_numbered_and_never_written_over(recipe: Recipe, tmp_path: Path) -> None:
    for number in ("001", "002", "003"):
        run = RunFolder.create(tmp_path, recipe, None, "")
        assert run.path.name == number
    assert RunFolder.newest(tmp_path, recipe).path == run.path


def test_there_must_be_a_run_of_this_recipe_to_resume(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run to resume"):
        RunFolder.newest(tmp_path, recipe)
    RunFolder.create(tmp_path, recipe, None, "")
    with pytest.raises(RunError, match="started with another recipe"):
        RunFolder.newest(tmp_path, recipe.model_copy(update={"seed": 99}))


def test_a_loss_that_goes_astray_stops_the_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ForecastTask, "loss", lambda *_: torch.tensor(float("nan")))
    run = RunFolder.create(tmp_path, recipe, None, "")
    with pytest.raises(RunError, match=r"the loss became nan at step 0: lower"):
        fit(make_task(recipe, None), run, QUIET)


def test_a_loss_of_the_validation_rows_that_goes_astray_stops_the_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ForecastTask, "validation_loss", lambda *_: torch.tensor(float("inf")))
    run = RunFolder.create(tmp_path, recipe, None, "")
    with pytest.raises(RunError, match=r"the loss of the validation rows became inf at step"):
        fit(make_task(recipe, None), run, QUIET)
    assert not run.weights.exists()


def test_weights_that_the_last_update_broke_are_not_kept(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_a_weight(task, network, searched):
        next(network.parameters()).data.view(-1)[0] = float("nan")

    monkeypatch.setattr(ForecastTask, "finish", break_a_weight)
    run = RunFolder.create(tmp_path, recipe, None, "")
    with pytest.raises(RunError, match=r"weights .* hold values that are not finite"):
        fit(make_task(recipe, None), run, QUIET)
    assert not run.weights.exists()


def test_a_known_truth_that_cannot_be_scaled_makes_the_loss_no_number(recipe: Recipe) -> None:
    """A missing truth does not count; one beside an infinite value is not missing."""
    task = make_task(recipe, None)
    network = task.network()
    [(x, time, truth)] = task.validation_batches()
    assert task.validation_loss(network, (x, time, truth)).isfinite()
    x[0, 100:, 0] = 3e38  # finite, as the file says, but no sum over a window is
    assert task.validation_loss(network, (x, time, truth)).isnan()


def cut_power_at_call(number: int):
    true_loss = ForecastTask.validation_loss
    calls = 0

    def loss(self, network, batch):
        nonlocal calls
        calls += 1
        if calls == number:
            raise PowerCutError
        return true_loss(self, network, batch)

    return loss
