"""Options of a fit, seen from the run folder that it leaves: windows, clipping, rates."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.training.slow.test_end_to_end import to_toml
from tests.training.text_models import tiny_recipe as text_recipe
from training.__main__ import app
from training.config import parse_recipe
from training.errors import RecipeError
from training.fit.rate_finder import find_rate, smooth, suggest
from training.fit.run_folder import RunFolder
from training.fit.trainer import FitOptions, fit
from training.fit.truncated import truncated_losses
from training.tasks.forecast.task import ForecastTask
from training.tasks.registry import make_task


def run(place: Path, fields: dict[str, Any], **fit_options: Any) -> RunFolder:
    fields["fit"] |= {"max_epochs": 1, "refit_on_validation": False} | fit_options
    recipe = parse_recipe(fields, "tiny")
    run = RunFolder.create(place, recipe, None, "")
    fit(make_task(recipe, None), run, FitOptions(accelerator="cpu", progress=False))
    return run


def column(run: RunFolder, name: str) -> list[float]:
    log = run.path / "search" / "logs" / "version_0" / "metrics.csv"
    with log.open(newline="") as lines:
        return [float(row[name]) for row in csv.DictReader(lines) if row.get(name)]


def test_norms_before_and_after_clipping_are_logged(tmp_path: Path, transit_fields) -> None:
    clipped = run(tmp_path, transit_fields, gradient_clip=0.01)
    before, after = column(clipped, "grad_norm"), column(clipped, "grad_norm_clipped")
    assert len(before) == len(after) > 0
    assert min(before) > 0.01
    assert after == [pytest.approx(0.01)] * len(after)


@pytest.fixture
def norms_seen(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The gradient's norm at every step of the optimiser."""
    seen = []
    step = torch.optim.AdamW.step

    def spy(self, closure=None):
        result = closure and closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        seen.append(float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None])))
        step(self, None)
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    return seen


@pytest.mark.parametrize("window_size", [None, 30])
def test_clipping_is_what_the_optimiser_sees(
    tmp_path: Path, transit_fields, norms_seen: list[float], window_size: int | None
) -> None:
    run(tmp_path, transit_fields, gradient_clip=0.01, window_size=window_size)
    assert norms_seen
    assert all(norm <= 0.0101 for norm in norms_seen)


def test_every_window_has_a_gradient_of_its_own(
    tmp_path: Path, transit_fields, norms_seen: list[float]
) -> None:
    transit_fields["task"] |= {"missing_share": 0.0, "dropout": 0.0}
    still = {"learning_rate": 1e-12, "gradient_clip": 1e9, "window_size": 20}
    task = make_task(run(tmp_path, transit_fields, **still).recipe, None)
    torch.manual_seed(task.recipe.seed)
    network = task.network()
    [batch] = task.train_batches(with_validation=False)
    losses = truncated_losses(task.sequence_loss(), network, task.prepare(batch), 20, 20)
    weights = list(network.parameters())
    expected = [
        torch.nn.utils.get_total_norm([g for g in gradients if g is not None]).item()
        for gradients in (torch.autograd.grad(loss, weights, allow_unused=True) for loss in losses)
    ]
    assert norms_seen == pytest.approx(expected, rel=1e-3)


def test_windows_update_the_weights_many_times_a_batch(
    tmp_path: Path, transit_fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    """61 rows: windows end at 10, 20, …, 60 and 61, seven updates where full BPTT has one."""
    full = run(tmp_path, transit_fields)
    spans = []
    part = type(make_task(full.recipe, None).sequence_loss()).part

    def spy(self, network, batch, state):
        if network.training:
            spans.append((batch[0].shape[1], state is None or not state.requires_grad))
        return part(self, network, batch, state)

    monkeypatch.setattr("training.tasks.forecast.task.ForecastLoss.part", spy)
    windows = run(tmp_path, transit_fields, window_size=20, shifting_size=10)
    num_batches = len(column(full, "grad_norm"))
    assert len(column(windows, "grad_norm")) == num_batches
    assert max(num_steps for num_steps, _ in spans) <= 20
    assert sum(is_detached for _, is_detached in spans) == 7 * num_batches
    assert windows.load_weights()
    assert len(windows.history()["search"]["train_loss"]) == 1


def test_one_window_over_everything_trains_as_full_bptt(tmp_path: Path, transit_fields) -> None:
    full = run(tmp_path, transit_fields).load_weights()
    windowed = run(tmp_path, transit_fields, window_size=61).load_weights()
    for name, value in full.items():
        torch.testing.assert_close(windowed[name], value, msg=name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shifting_size": 5}, "shifting_size 5 needs a window_size at least as large"),
        ({"window_size": 4, "shifting_size": 5}, "never be learnt from"),
        ({"window_size": 0}, r"window_size: .*greater than or equal to 1"),
    ],
)
def test_windows_that_leave_gaps_are_refused(transit_fields, options, says) -> None:
    transit_fields["fit"] |= options
    with pytest.raises(RecipeError, match=says):
        parse_recipe(transit_fields, "tiny")


def test_a_task_that_learns_from_whole_texts_refuses_windows(tmp_path: Path) -> None:
    recipe = text_recipe(window_size=8)
    with pytest.raises(RecipeError, match=r"fit.window_size: task 'classify' learns from whole"):
        fit(
            make_task(recipe, None),
            RunFolder.create(tmp_path, recipe, None, ""),
            FitOptions(accelerator="cpu", progress=False),
        )


def test_the_suggested_rate_is_that_of_the_steepest_fall_in_noise() -> None:
    rates = np.logspace(-6, 0, 100)
    falls_at = 1 / (1 + np.exp(-4 * (np.log10(rates) + 3)))  # steepest at 1e-3
    explodes = np.where(rates > 0.1, 5 * np.log10(rates / 0.1), 0)
    noise = 0.03 * np.random.default_rng(1).normal(size=100)
    suggestion = suggest(rates, smooth(1 - 0.5 * falls_at + explodes + noise))
    assert suggestion is not None
    assert 3e-4 < suggestion < 3e-3


def test_a_loss_that_only_rises_suggests_nothing() -> None:
    assert suggest(np.logspace(-6, 0, 9), np.arange(9.0)) is None


def test_a_rate_at_which_the_loss_is_no_number_ends_the_search(
    transit_fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(parse_recipe(transit_fields, "tiny"), None)
    true_loss, calls = ForecastTask.loss, 0

    def loss(self, network, batch):
        nonlocal calls
        calls += 1
        return true_loss(self, network, batch) * (float("nan") if calls > 35 else 1)

    monkeypatch.setattr(ForecastTask, "loss", loss)
    found = find_rate(task, num_steps=40)
    assert len(found.losses) == len(found.rates) == 35
    assert np.isfinite(found.losses).all()


def test_the_rate_finder_suggests_a_rate_at_which_the_loss_falls(transit_fields) -> None:
    task = make_task(parse_recipe(transit_fields, "tiny"), None)
    assert isinstance(task, ForecastTask)
    found = find_rate(task, num_steps=40)
    assert found.rates[0] < found.suggestion < found.rates[-1]
    place = int(np.searchsorted(found.rates, found.suggestion))
    assert found.losses[place + 1] < found.losses[place]


def test_the_command_line_prints_the_rate_and_draws_it(tmp_path: Path, transit_fields) -> None:
    (tmp_path / "tiny.toml").write_text(to_toml(transit_fields))
    arguments = ["find-rate", str(tmp_path / "tiny.toml"), "--steps", "30"]
    result = CliRunner().invoke(app, [*arguments, "--picture", str(tmp_path / "rates.png")])
    assert result.exit_code == 0, result.output
    assert "learning_rate = " in result.output
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
