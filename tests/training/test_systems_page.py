"""training/SYSTEMS.md names what is there, leaves nothing out, and says what was measured."""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
from typer.main import get_group

from tests.training.cells.equations import CASES
from training.__main__ import app
from training.cells.base import cell_kinds
from training.config import load_recipe
from training.experiments.every_cell import methods as every_cell_methods
from training.experiments.experiment import experiments, find_experiment
from training.fit.rate_finder import find_rate
from training.tasks.registry import TASKS, make_task

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "training" / "SYSTEMS.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"`(python -m [^`]+)`", TEXT)))


def rows() -> list[dict[str, str]]:
    """Every row of every table, by the names of its columns."""
    found, header = [], []
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif set(line) - set("|-: "):
            assert len(cells) == len(header), line
            found.append(dict(zip(header, cells, strict=True)))
    return found


ROWS = rows()


def row_of(text: str) -> dict[str, str]:
    [row] = [row for row in ROWS if text in next(iter(row.values()))]
    return row


def results(folder: str) -> Any:
    file = ROOT / "training" / "results" / folder / "results.json"
    return json.loads(file.read_text(encoding="utf-8"))


def test_no_cell_of_a_table_is_empty() -> None:
    assert len(ROWS) >= 30
    assert not [row for row in ROWS if not all(row.values())]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: next(iter(row.values()))[:30])
def test_every_row_has_a_file_a_test_and_a_figure_with_its_command_or_report(row) -> None:
    test = row["test"]
    assert re.search(r"\]\(\.\./tests/", test), test
    assert re.search(r"\]\((?!\.\./tests)[^)]+\.(py|toml)\)", row["file"]), row["file"]
    figure = row["figure"]
    assert re.search(r"\d", figure), figure
    assert re.search(r"`python -m |\]\([^)]+\.(md|html|json)\)", figure + row.get("command", ""))


def test_every_link_leads_somewhere() -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", TEXT))
    assert len(links) > 30
    missing = [link for link in links if not (PAGE.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line: str) -> None:
    """Its options are parsed, and the recipe, the bundle and the variant that it names exist."""
    _, _, module, *arguments = shlex.split(line)
    if module != "training":
        assert importlib.util.find_spec(module)
        return
    command = get_group(app).commands[arguments[0]]
    params = command.make_context(arguments[0], arguments[1:]).params
    for name in ("recipe", "path"):
        assert name not in params or (ROOT / params[name]).exists()
    if command.name == "experiment":
        find_experiment(params["name"], params["variant"], "a file")


def test_every_cell_has_its_rows_equation_and_figure() -> None:
    for case, (kind, _, _) in CASES.items():
        [row] = [row for row in ROWS if row["file"] == f"[`{kind}`](cells/{kind}.py)"]
        assert f"`{case}`" in row["test"]
        assert "equation" in row
    measured = results("cells")
    for method, (kind, _) in every_cell_methods().items():
        figures = [r["outcome"]["figure"] for r in measured if r["method"] == method]
        [row] = [row for row in ROWS if row["file"] == f"[`{kind}`](cells/{kind}.py)"]
        assert f"{median(figures):.4f}" in row["figure"], method
    assert {kind for kind, _, _ in CASES.values()} == set(cell_kinds())


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_has_its_command(name: str) -> None:
    assert f"`python -m training experiment {name}" in TEXT


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_has_its_row(kind: str) -> None:
    file = TASKS[kind].removeprefix("training.").replace(".", "/") + ".py"
    assert any(f"]({file})" in row["file"] for row in ROWS)


def test_the_scan_is_as_much_faster_as_it_was_measured_with_the_same_loss() -> None:
    measured = results("scan-speed")
    assert f"{measured['times_faster']:.1f} times faster" in TEXT
    assert measured["times_faster"] >= 5
    assert measured["loss_by_scan"] == pytest.approx(measured["loss_step_by_step"], rel=1e-5)


def test_the_adding_problem_is_solved_by_all_but_the_tanh_network() -> None:
    solved = {
        method: sum(
            r["outcome"]["figure"] < 0.02 for r in results("adding-T100") if r["method"] == method
        )
        for method in ("IRNN", "LSTM", "GRU", "tanh RNN")
    }
    assert min(solved["IRNN"], solved["LSTM"], solved["GRU"]) >= 2
    assert solved["tanh RNN"] == 0
    assert sum(r["outcome"]["seconds"] for r in results("adding-T100")) < 30 * 60


def test_the_clockwork_networks_error_is_less_than_half_of_the_plain_networks() -> None:
    errors = {
        method: mean(r["outcome"]["figure"] for r in results("waveform") if r["method"] == method)
        for method in ("CW-RNN", "RNN")
    }
    assert 2 * errors["CW-RNN"] < errors["RNN"]


def test_the_suggested_rate_is_the_one_that_is_said() -> None:
    task = make_task(load_recipe(ROOT / "training" / "recipes" / "hello.toml"), None)
    assert f"{find_rate(task).suggestion:.2g}" in row_of("A learning rate")["figure"]


@pytest.mark.parametrize(
    ("case", "form"),
    [
        ("tanh RNN", "{:.2f} (tanh"),
        ("sigmoid RNN", "{:.2f} (sigmoid"),
        ("ReLU RNN, radius 2", "{:.2f} (ReLU, radius 2"),
        ("IRNN", "{:.2f} (IRNN"),
        ("LSTM, forget bias 5", "{:.2f} (LSTM, forget bias 5"),
        ("GRU, update bias 5", "{:.2f} (GRU, update bias 5"),
    ],
)
def test_gradients_flow_as_they_were_measured(case: str, form: str) -> None:
    measured = results("gradients")["cases"][case]["at_start"]
    assert form.format(measured["one_step_back"]) in row_of("Vanishing and exploding")["figure"]


def test_clipping_did_what_is_said_of_it() -> None:
    clipping = results("gradients")["clipping"]
    figure = row_of("Gradient clipping")["figure"]
    assert f"{clipping['largest_norm_before']:.1e} to {clipping['largest_norm_after']:g}" in figure
    assert f"after {clipping['updates_without']} updates" in figure
    assert clipping["diverges_without"]
    assert not clipping["diverges_with"]


def percent_right(errors: list[float]) -> float:
    return 100 * (1 - median(errors))


def percent(errors: list[float]) -> float:
    return 100 * median(errors)


@pytest.mark.parametrize(
    ("folder", "method", "form", "of_all"),
    [
        *(
            (f"adding-T{num_steps}", method, f"{method} {{:.{digits}f}}", median)
            for num_steps in (100, 150, 200)
            for method, digits in (("IRNN", 4), ("LSTM", 4), ("GRU", 4), ("tanh RNN", 3))
        ),
        ("waveform", "CW-RNN", "CW-RNN {:.4f}", mean),
        ("waveform", "LSTM", "LSTM {:.2f}", mean),
        ("waveform", "GRU", "GRU {:.2f}", mean),
        ("waveform", "RNN", "RNN {:.2f}", mean),
        *(
            (folder, f"{cell}, {order}", f"{cell} {{:.0f}} %", percent_right)
            for folder in ("pixels-mnist14", "pixels-digits8", "pixels-digits8-late")
            for cell in ("tanh RNN", "IRNN", "IRNN with wider inputs")
            for order in ("in order", "permuted")
        ),
        ("windows", "60 steps, full BPTT", "{:.1f} % of the bits wrong", percent),
        ("windows", "10 steps, moved by 5", "{:.1f} % with 10 and 5", percent),
        ("windows", "5 steps, moved by 5", "{:.1f} % with 5 and 5", percent),
        ("windows", "1 step", "{:.1f} % with 1 and 1", percent),
    ],
)
def test_figures_are_those_of_the_results(folder: str, method: str, form: str, of_all) -> None:
    figures = [r["outcome"]["figure"] for r in results(folder) if r["method"] == method]
    assert figures
    said = [row["figure"] for row in ROWS if f"results/{folder}/" in " ".join(row.values())]
    assert any(form.format(of_all(figures)) in figure for figure in said), form.format(
        of_all(figures)
    )


@pytest.mark.parametrize(
    ("model", "metric", "baseline", "form"),
    [
        ("sentiment-en", "accuracy", "TF-IDF logistic regression", "{:.1%}, {:.1%}"),
        ("sentiment-ko", "accuracy", "TF-IDF logistic regression", "{:.1%}, {:.1%}"),
        ("transit-ridership", "MASE", "seasonal naive", "{:.2f}, {:.2f}"),
        ("stock-returns", "MASE", "always 0", "{:.2f}, {:.2f}"),
        ("hello", "bits_per_character", "interpolated 2-grams (Witten-Bell)", "{:.3f}, {:.3f}"),
        (
            "shakespeare",
            "bits_per_character",
            "interpolated 5-grams (Witten-Bell)",
            "{:.2f}, {:.2f}",
        ),
        (
            "digit-names",
            "exact_match",
            "the name of the nearest known vector",
            "{:.1%}, {:.1%}",
        ),
        ("dates", "exact_match", "the same without attention", "{:.1%}, {:.1%}"),
        ("day-kinds", "accuracy", "logistic regression on the last 7 values", "{:.1%}, {:.1%}"),
    ],
)
def test_figures_are_those_of_the_models_and_their_baselines(model, metric, baseline, form) -> None:
    [path] = (ROOT / "models" / model).glob("*/manifest.json")
    quality = json.loads(path.read_text(encoding="utf-8"))["quality"]
    [figure] = [q for q in quality if (q["metric"], q["baseline"]) == (metric, baseline)]
    said = form.format(figure["value"], figure["baseline_value"]).replace("%", " %")
    [row] = [row for row in ROWS if f"models/{model}/" in row["figure"]]
    assert said in row["figure"], said
