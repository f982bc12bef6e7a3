"""Experiments: what each asks of a network, and that results are kept, found again and reported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import training
from training.__main__ import app
from training.cells.base import cell_kinds
from training.cells.clockwork import ClockworkLayer
from training.data.digit_images import halve, packaged_digits, read_mnist
from training.errors import DataError, RecipeError
from training.experiments import adding, every_cell, pixels, step_size, waveform, windows
from training.experiments.experiment import Job, Outcome, Result, experiments, find_experiment
from training.experiments.learning import LearningPlan, Reader, learn
from training.experiments.runner import _find, read_results, run_alone, run_experiment


def quiet(_: str) -> None:
    """Nobody listens."""


def test_every_experiment_is_found_by_name() -> None:
    found = {"adding", "cells", "pixels", "waveform", "windows", "step-size"}
    assert set(experiments()) == found
    assert find_experiment("adding", None, None).variant == "T100"
    with pytest.raises(RecipeError, match=r"no experiment 'mnist'; expected one of adding"):
        find_experiment("mnist", None, None)
    with pytest.raises(RecipeError, match=r"no variant 'T7'; expected one of T100, T150, T200"):
        find_experiment("adding", "T7", None)


def test_the_adding_problem_asks_for_the_sum_of_one_number_from_each_half() -> None:
    x, y = adding.sequences(500, 20, torch.Generator().manual_seed(1))
    numbers, marks = x.unbind(dim=2)
    assert ((marks == 0) | (marks == 1)).all()
    assert (marks[:, :10].sum(dim=1) == 1).all()
    assert (marks[:, 10:].sum(dim=1) == 1).all()
    torch.testing.assert_close((numbers * marks).sum(dim=1), y)
    assert (y - 1).square().mean().item() == pytest.approx(adding.TRIVIAL, rel=0.15)


def test_a_gru_learns_to_add_over_a_short_distance() -> None:
    torch.manual_seed(1)
    job = adding.AddingExperiment("T100").jobs(1)[0]
    short = adding.AddingExperiment("T10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(adding._UPDATES, "T10", 600)
        patch.setattr(adding, "_HIDDEN", 24)
        outcome = short.run(job)
    assert job.method == "GRU"
    assert outcome.figure is not None
    assert outcome.figure < adding.SOLVED


def test_every_cell_is_compared_and_a_new_one_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = every_cell.EveryCellExperiment("adding30")
    assert {str(job.settings["cell"]) for job in experiment.jobs(1)} == set(cell_kinds())
    monkeypatch.setattr(every_cell, "cell_kinds", lambda: [*cell_kinds(), "newest"])
    assert "newest" in [job.method for job in experiment.jobs(1)]


def test_a_compared_cell_says_what_it_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every_cell, "_UPDATES", 2)
    experiment = every_cell.EveryCellExperiment("adding30")
    [job] = [job for job in experiment.jobs(1) if job.method == "lstm"]
    outcome = experiment.run(job)
    assert outcome.details["state_size"] == 2 * every_cell._HIDDEN
    result = Result(method="lstm", seed=1, settings=job.settings, outcome=outcome)
    [table] = experiment.find([result]).tables
    assert [row[0] for row in table.rows] == ["lstm"]
    assert table.rows[0][-1] == "64"


def test_an_echo_is_the_bit_that_came_before() -> None:
    x, y = windows.echoes(50, torch.Generator().manual_seed(1))
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    assert not y[:, : windows._DELAY].any()
    assert torch.equal(2 * y[:, windows._DELAY :] - 1, x[:, : -windows._DELAY])


def test_windows_meet_their_bits_as_their_sizes_say() -> None:
    met = {
        name: windows.steps_that_meet_their_bit(*sizes) for name, sizes in windows._METHODS.items()
    }
    assert met["60 steps, full BPTT"] == met["10 steps, moved by 5"] == 1
    assert met["10 steps, moved by 10"] == pytest.approx(30 / 55)
    assert met["5 steps, moved by 5"] == met["1 step"] == 0


def test_an_echo_is_learnt_only_in_windows_that_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_DELAY", 2)
    monkeypatch.setattr(windows, "_UPDATES", 300)
    experiment = windows.WindowsExperiment("echo5")
    wrong = {
        job.method: run_alone(experiment, job).figure
        for job in experiment.jobs(1)
        if job.method in ("5 steps, moved by 5", "1 step")
    }
    assert wrong["5 steps, moved by 5"] < 0.01
    assert wrong["1 step"] > 0.05  # not half of them: an untrained GRU holds traces of its past


def test_networks_of_the_waveform_have_equally_many_weights() -> None:
    counts = {
        job.method: Reader(
            waveform.CellConfig(
                kind=waveform._METHODS[job.method][0],
                hidden_size=waveform._METHODS[job.method][2],
                options=waveform._METHODS[job.method][1],
            ),
            1,
            1,
        ).num_weights()
        for job in waveform.WaveformExperiment("samples320").jobs(1)
    }
    assert max(counts.values()) <= 1.03 * min(counts.values()), counts
    assert counts["CW-RNN"] == min(counts.values()) or counts["CW-RNN"] <= 1.01 * counts["RNN"]


def test_weights_that_no_clockwork_module_reads_do_not_count() -> None:
    layer = ClockworkLayer(1, 36, waveform_options())
    x = torch.randn(2, 600, 1)
    y, _ = layer(x, None, layer.initial_state().expand(2, -1))
    y.sum().backward()
    num_used = sum(int((p.grad != 0).sum()) for p in layer.parameters() if p.grad is not None)
    assert num_used == layer.num_weights


def waveform_options():
    return ClockworkLayer.Options(num_modules=9)


def test_a_waveform_is_that_of_its_seed_and_spans_its_range() -> None:
    first, again, other = waveform.waveform(1), waveform.waveform(1), waveform.waveform(2)
    assert first.shape == (waveform.NUM_STEPS,)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first).max() == pytest.approx(1)
    assert np.abs(np.corrcoef(first, other)[0, 1]) < 0.9


def test_step_sizes_behave_as_the_curvature_says() -> None:
    experiment = step_size.StepSizeExperiment("ar4")
    outcomes = {job.method: experiment.run(job) for job in experiment.jobs(1)}
    assert outcomes["just above the limit"].figure is None
    assert outcomes["too large"].figure is None
    figures = {name: outcome.figure for name, outcome in outcomes.items() if outcome.figure}
    assert figures["right"] < figures["small"] < figures["far too small"]
    assert figures["just below the limit"] < 1
    assert outcomes["too large"].num_updates < outcomes["just above the limit"].num_updates


def test_pixels_are_fed_one_a_step_and_permuted_the_same_way_for_all() -> None:
    images = packaged_digits()
    assert len(images.test_labels) == 360
    plain, permuted = (pixels.as_steps(images.images[:9], o) for o in ("in order", "permuted"))
    assert plain.shape == permuted.shape == (9, 64, 1)
    np.testing.assert_array_equal(plain[3, :, 0], images.images[3].flatten())
    assert not torch.equal(plain, permuted)
    torch.testing.assert_close(plain.sort(dim=1).values, permuted.sort(dim=1).values)
    assert torch.equal(pixels.as_steps(images.images[3:4], "permuted")[0], permuted[3])
    late = pixels.as_steps(images.images[:9], "permuted", num_blank=5)
    assert torch.equal(late[:, :64], permuted)
    assert not late[:, 64:].any()
    assert late.shape == (9, 69, 1)


def test_halving_takes_the_mean_of_four_neighbours() -> None:
    image = np.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_array_equal(halve(image)[0], [[2.5, 4.5], [10.5, 12.5]])


def test_mnist_must_be_given_and_look_like_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"variant 'mnist14' reads MNIST: pass --data"):
        find_experiment("pixels", "mnist14", None).jobs(1)
    (tmp_path / "no.npz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no.npz: cannot be read .* expected an .npz file"):
        read_mnist(tmp_path / "no.npz")
    small = {"x_train": np.zeros((3, 8, 8)), "y_train": np.zeros(3)}
    np.savez(tmp_path / "small.npz", **small, x_test=np.zeros((1, 8, 8)), y_test=np.zeros(1))
    with pytest.raises(DataError, match=r"x_train is \[3, 8, 8\]"):
        read_mnist(tmp_path / "small.npz")
    full = {"x_train": np.full((3, 28, 28), 255), "y_train": np.arange(3)}
    np.savez(tmp_path / "full.npz", **full, x_test=np.zeros((1, 28, 28)), y_test=np.zeros(1))
    found = read_mnist(tmp_path / "full.npz")
    assert found.images.max() == 1
    assert sorted(found.labels.tolist()) == [0, 1, 2]


def test_a_loss_that_is_not_finite_ends_a_job_and_is_said() -> None:
    torch.manual_seed(1)
    network = Reader(adding.CellConfig(kind="rnn", hidden_size=3), 2, 1)
    batches = iter([(torch.ones(1, 2, 2), torch.tensor(float("nan")))])
    outcome = learn(
        network,
        batches,
        lambda x, y: network.last(x).mean() * y,
        check=lambda: 1.0,
        test=lambda: 1.0,
        plan=LearningPlan(1e-3, max_updates=5, check_every=1),
    )
    assert outcome.figure is None
    assert outcome.details["has_diverged"] == 1


def test_the_weights_reported_are_the_best_that_were_checked() -> None:
    torch.manual_seed(1)
    network = Reader(adding.CellConfig(kind="rnn", hidden_size=3), 2, 1)
    errors, seen = iter([0.5, 0.1, 0.7]), []

    def check() -> float:
        seen.append(network.head.bias.item())
        return next(errors)

    outcome = learn(
        network,
        iter([(torch.ones(4, 2, 2), torch.full((4, 1), 9.0))] * 3),
        lambda x, y: (network.last(x) - y).square().mean(),
        check=check,
        test=lambda: network.head.bias.item(),
        plan=LearningPlan(0.1, max_updates=3, check_every=1),
    )
    assert outcome.figure == pytest.approx(seen[1])
    assert [error for _, error in outcome.curve] == [0.5, 0.1, 0.7]


def test_finished_jobs_are_kept_and_a_changed_one_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = step_size.StepSizeExperiment("ar4")
    ran: list[Job] = []
    run = step_size.StepSizeExperiment.run

    def spy(self: step_size.StepSizeExperiment, job: Job) -> Outcome:
        ran.append(job)
        return run(self, job)

    monkeypatch.setattr(step_size.StepSizeExperiment, "run", spy)
    folder, left = run_experiment(experiment, tmp_path, 1, "c", quiet, max_minutes=0)
    assert (left, ran) == (6, [])
    folder, left = run_experiment(experiment, tmp_path, 1, "c", quiet)
    assert (left, len(ran)) == (0, 6)
    run_experiment(experiment, tmp_path, 1, "c", quiet)
    assert len(ran) == 6
    monkeypatch.setitem(step_size._METHODS, "right", 0.4)
    monkeypatch.setattr(step_size, "_UPDATES", 400)
    run_experiment(experiment, tmp_path, 1, "c", quiet)
    assert [job.method for job in ran[6:]] == ["right"]
    assert len(read_results(folder)) == 6


def test_results_of_more_seeds_than_are_asked_for_are_kept_and_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = step_size.StepSizeExperiment("ar4")
    folder, _ = run_experiment(experiment, tmp_path, 2, "c", quiet)
    results = read_results(folder)
    assert len(results) == 12
    monkeypatch.setitem(step_size._METHODS, "right", 0.4)
    _, left = run_experiment(experiment, tmp_path, 1, "c", quiet)
    assert left == 0
    kept = [result for result in results if result.method != "right"]
    assert [result for result in read_results(folder) if result.method != "right"] == kept
    assert [result.seed for result in read_results(folder) if result.method == "right"] == [1]
    assert "\n6 jobs, " in (folder / "README.md").read_text()
    assert run_experiment(experiment, tmp_path, 2, "c", quiet, max_minutes=0)[1] == 1


def test_results_of_another_data_file_are_not_taken_for_those_of_this_one(tmp_path: Path) -> None:
    files = [tmp_path / "first.npz", tmp_path / "second.npz"]
    for file in files:
        file.write_bytes(file.name.encode())
    first, second = (pixels.PixelsExperiment("mnist14", str(file)).jobs(1)[0] for file in files)
    outcome = Outcome(figure=0.5, curve=[], num_weights=1, num_updates=1, seconds=1)
    result = Result(method=first.method, seed=1, settings=first.settings, outcome=outcome)
    assert _find([result], [first]) == [result]
    assert _find([result], [second]) == []


@pytest.mark.parametrize(
    ("name", "variant", "num_seeds", "data"),
    [("pixels", "mnist14", 2, "no.npz"), ("pixels", "digits8", 3, None), ("cells", None, 1, None)],
)
def test_committed_results_are_those_of_the_experiment_as_it_is(
    name: str, variant: str | None, num_seeds: int, data: str | None
) -> None:
    experiment = find_experiment(name, variant, data)
    results = read_results(Path(training.__file__).parent / "results" / experiment.folder)
    wanted = experiment.jobs(num_seeds)
    assert len(_find(results, wanted)) == len(results) == len(wanted)


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "step-size").mkdir()
    (tmp_path / "step-size" / "results.json").write_text('{"mine": 1}')
    with pytest.raises(DataError, match=r"results.json: not results of an experiment"):
        run_experiment(step_size.StepSizeExperiment("ar4"), tmp_path, 1, "c", quiet)


def test_the_command_writes_table_picture_and_command(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["experiment", "step-size", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    report = (tmp_path / "step-size" / "README.md").read_text()
    assert "python -m training experiment step-size\n" in report
    assert "| too large | 1.5 · 2/λ | grows without bound | grows |" in report
    assert (tmp_path / "step-size" / "curves.png").read_bytes().startswith(b"\x89PNG")
