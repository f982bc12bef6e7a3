"""What would end a fit is one line before anything is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.slow.test_end_to_end import ROOT, to_toml
from training.__main__ import main
from training.config import load_recipe

RECIPES = ROOT / "training" / "recipes"


class StartedError(Exception):
    """The fit went past its checks."""


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `fit` on a changed recipe as far as the training; what it says where it refuses."""

    def started(*_: object) -> None:
        raise StartedError

    monkeypatch.setattr("training.fit.trainer.fit", started)
    monkeypatch.chdir(tmp_path)

    def run(recipe: str, changes: dict[str, Any], *arguments: str) -> str:
        fields = load_recipe(RECIPES / f"{recipe}.toml").model_dump(mode="json")
        for key, value in changes.items():
            section, name = key.split(".")
            fields[section][name] = value
        Path("r.toml").write_text(to_toml(fields))
        monkeypatch.setattr("sys.argv", ["carry-train", "fit", "r.toml", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert not Path("runs").exists()
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        return said

    return run


TRANSIT = "transit-ridership"


def test_a_recipe_that_fits_is_trained(fit) -> None:
    with pytest.raises(StartedError):
        fit(TRANSIT, {})
    assert Path("runs", TRANSIT, "001", "run.json").exists()


@pytest.mark.parametrize(
    ("recipe", "changes", "says"),
    [
        (TRANSIT, {"cell.kind": "gruu"}, "recipe-invalid: cell.kind is 'gruu'; expected one of ar"),
        ("day-kinds", {"cell.kind": "x"}, "recipe-invalid: cell.kind is 'x'; expected one of ar"),
        ("hello", {"cell.kind": "x"}, "recipe-invalid: cell.kind is 'x'; expected one of ar"),
        (
            TRANSIT,
            {"cell.kind": "clockwork", "cell.hidden_size": 31},
            "recipe-invalid: cell.hidden_size 31 cannot be split",
        ),
        (
            TRANSIT,
            {"task.covariates": ["temp", "wind", "temp"]},
            "recipe-invalid: [task] names column 'temp' more than once",
        ),
        (
            "day-kinds",
            {"task.columns": ["temp", "temp"]},
            "recipe-invalid: [task] names column 'temp' more than once",
        ),
        (
            TRANSIT,
            {"task.target": "date"},
            "recipe-invalid: [task] names 'date', the column of times, as a column of numbers",
        ),
        (TRANSIT, {"task.holidays": "XX"}, "recipe-invalid: task.holidays is 'XX'"),
        (
            "sentiment-foods",
            {"fit.window_size": 8},
            "recipe-invalid: fit.window_size: task 'classify' learns from whole sequences",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_makes_no_run(fit, recipe, changes, says) -> None:
    assert fit(recipe, changes).startswith(says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--accelerator", "banana"], "option-invalid: --accelerator banana --devices 1: expected"),
        (["--accelerator", "tpu"], "option-invalid: --accelerator tpu --devices 1: expected"),
        (["--accelerator", "cuda", "--devices", "99"], "option-invalid: --accelerator cuda --dev"),
    ],
)
def test_a_device_that_is_missing_makes_no_run(fit, arguments: list[str], says: str) -> None:
    said = fit(TRANSIT, {}, *arguments)
    assert said.startswith(says)
    assert "devices of this machine, which has cpu" in said


def test_a_target_that_is_not_finite_makes_no_run(fit, tmp_path: Path) -> None:
    rows = [
        f"{day},{value},1" for value, day in enumerate(np.datetime64("2020-01-01") + range(900))
    ]
    rows[700] = rows[700].replace(",700,", ",inf,")
    (tmp_path / "t.csv").write_text("\n".join(["time,load,temperature", *rows]))
    said = fit("my-series", {"task.frequency": "P1D"}, "--data", "t.csv")
    assert said.startswith("data-invalid: t.csv, data row 701: column 'load' holds 'inf'")


@pytest.mark.parametrize(
    ("recipe", "file", "says"),
    [
        ("sentiment-foods", "product,review,score\na,good,great\nb,bad,other\n", "2 texts are too"),
        ("dates", "one\teins\ntwo\tzwei\n", "2 pairs are too few"),
    ],
)
def test_data_that_are_too_few_make_no_run(fit, tmp_path: Path, recipe, file, says) -> None:
    (tmp_path / "few.csv").write_text(file)
    assert fit(recipe, {}, "--data", "few.csv").startswith(f"data-invalid: {says}")


def test_images_that_are_too_few_make_no_run(fit, tmp_path: Path) -> None:
    image, label = np.zeros((1, 28, 28)), np.zeros(1)
    np.savez(tmp_path / "few.npz", x_train=image, y_train=label, x_test=image, y_test=label)
    said = fit("digit-names", {}, "--data", "few.npz")
    assert said.startswith("data-invalid: 1 vectors are too few")
