"""What the kept results of the experiments show, and that every cell is tried."""

import json
from statistics import mean
from typing import Any

import pytest

from tests.architecture.project_files import ROOT
from tests.training.cells.equations import CASES
from training.cells.base import cell_kinds
from training.experiments.every_cell import methods as every_cell_methods


def results(folder: str) -> Any:
    file = ROOT / "training" / "results" / folder / "results.json"
    return json.loads(file.read_text(encoding="utf-8"))


def figures(folder: str, method: str) -> list[float]:
    return [r["outcome"]["figure"] for r in results(folder) if r["method"] == method]


def test_every_cell_has_an_equation_and_was_measured_on_the_common_task() -> None:
    assert {kind for kind, _, _ in CASES.values()} == set(cell_kinds())
    assert {r["method"] for r in results("cells")} == set(every_cell_methods())


def test_the_scan_is_five_times_faster_at_the_same_loss() -> None:
    measured = results("scan-speed")
    assert measured["times_faster"] >= 5
    assert measured["loss_by_scan"] == pytest.approx(measured["loss_step_by_step"], rel=1e-5)


def test_the_adding_problem_is_solved_by_all_but_the_tanh_network() -> None:
    solved = {
        method: sum(figure < 0.02 for figure in figures("adding-T100", method))
        for method in ("IRNN", "LSTM", "GRU", "tanh RNN")
    }
    assert min(solved["IRNN"], solved["LSTM"], solved["GRU"]) >= 2
    assert solved["tanh RNN"] == 0
    assert sum(r["outcome"]["seconds"] for r in results("adding-T100")) < 30 * 60


def test_the_clockwork_networks_error_is_less_than_half_of_the_plain_networks() -> None:
    assert 2 * mean(figures("waveform", "CW-RNN")) < mean(figures("waveform", "RNN"))


def test_without_clipping_a_fit_diverges_and_with_it_not() -> None:
    clipping = results("gradients")["clipping"]
    assert clipping["diverges_without"]
    assert not clipping["diverges_with"]
