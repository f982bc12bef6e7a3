"""training/SYSTEMS.md names what is there: every cell, every experiment, every file and command."""

import json
import re
from pathlib import Path
from statistics import mean, median

import pytest
from typer.testing import CliRunner

from training.__main__ import app
from training.cells.base import cell_kinds
from training.experiments.experiment import experiments

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "training" / "SYSTEMS.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python -m training ([a-z-]+)", TEXT)))


def test_every_link_leads_somewhere() -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", TEXT))
    assert len(links) > 30
    missing = [link for link in links if not (PAGE.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("kind", cell_kinds())
def test_every_cell_has_its_row(kind: str) -> None:
    assert f"[`{kind}`](cells/{kind}.py)" in TEXT


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_has_its_command(name: str) -> None:
    assert f"`python -m training experiment {name}" in TEXT


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_exists(command: str) -> None:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_the_scan_is_as_much_faster_as_it_was_measured_with_the_same_loss() -> None:
    file = ROOT / "training" / "results" / "scan-speed" / "results.json"
    measured = json.loads(file.read_text(encoding="utf-8"))
    assert f"{measured['times_faster']:.1f} times faster" in TEXT
    assert measured["times_faster"] >= 5
    assert measured["loss_by_scan"] == pytest.approx(measured["loss_step_by_step"], rel=1e-5)


def percent_right(errors: list[float]) -> float:
    return 100 * (1 - median(errors))


@pytest.mark.parametrize(
    ("folder", "method", "form", "of_all"),
    [
        ("adding-T100", "IRNN", "IRNN {:.4f}", median),
        ("adding-T100", "LSTM", "LSTM {:.4f}", median),
        ("adding-T100", "GRU", "GRU {:.4f}", median),
        ("adding-T100", "tanh RNN", "tanh RNN {:.3f}", median),
        ("adding-T150", "IRNN", "IRNN {:.4f}", median),
        ("adding-T150", "LSTM", "LSTM {:.4f}", median),
        ("adding-T150", "tanh RNN", "tanh RNN {:.3f}", median),
        ("waveform", "CW-RNN", "CW-RNN {:.4f}", mean),
        ("waveform", "LSTM", "LSTM {:.2f}", mean),
        ("waveform", "RNN", "RNN {:.2f}", mean),
        *(
            (folder, f"{cell}, {order}", f"{cell} {{:.0f}} %", percent_right)
            for folder in ("pixels-mnist14", "pixels-digits8")
            for cell in ("tanh RNN", "IRNN", "IRNN with wider inputs")
            for order in ("in order", "permuted")
        ),
    ],
)
def test_figures_are_those_of_the_results(folder: str, method: str, form: str, of_all) -> None:
    results = json.loads((ROOT / "training" / "results" / folder / "results.json").read_text())
    figures = [r["outcome"]["figure"] for r in results if r["method"] == method]
    assert figures
    [row] = [line for line in TEXT.splitlines() if line.startswith("| [") and f"/{folder}/" in line]
    assert form.format(of_all(figures)) in row
