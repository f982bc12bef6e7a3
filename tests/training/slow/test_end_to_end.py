"""The command line, from a recipe to a bundle that the contract accepts."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from service.contract.bundle import Bundle, read_bundle, write_bundle
from service.contract.errors import GoldenMismatchError
from service.contract.golden import check_golden
from training.__main__ import app, main
from training.errors import RecipeError, VerificationError
from training.evaluate.served_model import ServedModel, make_run
from training.export.bundle_writer import draft_bundle, next_version
from training.export.verify import check_parity, verify
from training.fit.run_folder import RunFolder
from training.tasks.forecast.task import ForecastTask

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_recipe) -> Path:
    """A folder in which one tiny model was trained for one epoch, by the command line."""
    place = tmp_path_factory.mktemp("training")
    (place / "tiny.toml").write_text(to_toml(tiny_recipe.model_dump(mode="json")))
    assert call(place, "fit", str(place / "tiny.toml"), "--no-progress") == 0
    return place


def call(place: Path, command: str, *arguments: str) -> int:
    options = ["--models", str(place / "models")] if command in ("fit", "export") else []
    options += ["--runs", str(place / "runs")] if command == "fit" else []
    result = CliRunner().invoke(app, [command, *arguments, *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code


def to_toml(fields: dict[str, Any]) -> str:
    """Enough TOML for a recipe: JSON's strings, numbers and lists are TOML's too."""
    plain = {k: v for k, v in fields.items() if not isinstance(v, dict)}
    lines = [f"{k} = {json.dumps(v)}" for k, v in plain.items()]
    for section in fields.keys() - plain.keys():
        lines.append(f"[{section}]")
        table = {k: v for k, v in fields[section].items() if v is not None}
        lines += [f"{k} = {json.dumps(v)}" for k, v in table.items()]
    text = "\n".join(lines)
    tomllib.loads(text)
    return text


@pytest.fixture(scope="module")
def bundle(place: Path) -> Bundle:
    return read_bundle(place / "models" / "transit-ridership" / "1")


def test_fit_writes_a_bundle_that_the_contract_accepts(bundle: Bundle) -> None:
    check_golden(bundle, make_run(bundle.graph))
    assert {"CARD.md", "forecasts.png", "errors.png", "coverage.png", "training.png"} < set(
        bundle.files
    )
    forecast = bundle.manifest.forecast
    assert forecast is not None
    assert forecast.target.name == "ridership"
    assert bundle.manifest.training.data[0].licence == "MIT"


def test_card_states_every_figure_with_its_command(bundle: Bundle) -> None:
    card = bundle.files["CARD.md"].decode()
    assert "python -m training evaluate models/transit-ridership/1" in card
    assert bundle.manifest.training.command in card
    mase = next(figure for figure in bundle.manifest.quality if figure.metric == "MASE")
    assert f"| this model | {mase.value:.3f} |" in card
    for baseline in ("persistence", "seasonal naive", "AutoETS"):
        assert f"| {baseline} |" in card


def test_graph_names_no_file_of_the_machine_it_was_made_on(bundle: Bundle) -> None:
    for word in (b".py", b"site-packages", b"/home", b"/root", b"/tmp"):
        assert word not in bundle.graph


def test_exporting_twice_gives_the_same_bytes(place: Path, bundle: Bundle) -> None:
    assert call(place, "export", str(place / "runs" / "transit-ridership" / "001")) == 0
    again = read_bundle(place / "models" / "transit-ridership" / "1")
    assert again.manifest.manifest_sha256 == bundle.manifest.manifest_sha256


def test_evaluate_reads_a_bundle_alone_and_writes_pictures(place: Path) -> None:
    folder = place / "models" / "transit-ridership" / "1"
    assert call(place, "evaluate", str(folder), "--pictures", str(place / "pictures")) == 0
    pictures = {path.name: path.read_bytes() for path in (place / "pictures").iterdir()}
    assert pictures["forecasts.png"] == (folder / "forecasts.png").read_bytes()


def test_verify_refuses_a_graph_of_other_weights(
    place: Path, bundle: Bundle, tiny_task: ForecastTask, tiny_recipe
) -> None:
    network = tiny_task.network()
    network.load_state_dict(RunFolder.newest(place / "runs", tiny_recipe).load_weights())
    inputs = tiny_task.example_inputs(3, 12)
    length = np.array([12, 0, 5])
    model = ServedModel.from_bundle(bundle)
    check_parity(model, network, inputs, length)
    network.head.linear.bias.data += 0.01
    with pytest.raises(VerificationError, match=r"parity: '(mean|quantiles)' differs"):
        verify(bundle, network, tiny_task.example_inputs(1, 60))


def test_verify_refuses_a_state_that_is_not_carried(
    place: Path, tiny_task: ForecastTask, tiny_recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that swaps two parts of its state answers a whole sequence right, and only that."""
    run = RunFolder.newest(place / "runs", tiny_recipe)
    network = tiny_task.network()
    network.load_state_dict(run.load_weights())
    forward = type(network).forward

    def swapped(self, x, time, length, state):
        mean, quantiles, new = forward(self, x, time, length, state)
        return mean, quantiles, new.roll(1, dims=1)

    monkeypatch.setattr(type(network), "forward", swapped)
    broken = draft_bundle(tiny_task, network.eval(), run)
    with pytest.raises(VerificationError, match=r"golden: .*(untouched|stepwise)"):
        verify(broken, network, tiny_task.example_inputs(1, 60))


def test_a_changed_golden_run_is_refused(bundle: Bundle) -> None:
    def wrong(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value + 1e-2 for name, value in make_run(bundle.graph)(feeds).items()}

    with pytest.raises(GoldenMismatchError):
        check_golden(bundle, wrong)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "nowhere.toml"], "recipe-invalid: nowhere.toml: cannot be read"),
        (["export", "nowhere"], "run-invalid: nowhere: neither a bundle nor a run"),
        (
            ["fit", "training/recipes/transit-ridership.toml", "--data", "nowhere.csv"],
            "data-invalid: nowhere.csv: no such file; expected a CSV file",
        ),
    ],
)
def test_mistakes_end_in_one_line_not_in_a_traceback(
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["carry-train", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(says)
    assert "Traceback" not in said


def test_a_fit_takes_the_next_free_version(tmp_path: Path, tiny_recipe) -> None:
    assert next_version(tmp_path, tiny_recipe) == "1"
    name = tmp_path / tiny_recipe.name
    for version in ("1", "3", "9", ".2-staging", "latest"):
        (name / version).mkdir(parents=True)
    assert next_version(tmp_path, tiny_recipe) == "10"
    assert next_version(tmp_path, tiny_recipe.model_copy(update={"version": "2"})) == "2"
    assert next_version(tmp_path, tiny_recipe.model_copy(update={"version": "9"})) == "10"
    (name / "999999999").mkdir()
    with pytest.raises(RecipeError, match="no version is free behind 999999999"):
        next_version(tmp_path, tiny_recipe)


def test_a_run_whose_version_was_taken_meanwhile_is_resumed_as_it_was(
    tmp_path: Path, tiny_recipe
) -> None:
    run = RunFolder.create(tmp_path, tiny_recipe, None, "").with_version("4")
    resumed = RunFolder.newest(tmp_path, tiny_recipe)
    assert resumed == run
    assert resumed.recipe.version == "4"


def test_an_imported_bundle_has_nothing_to_be_judged_by(
    place: Path, tmp_path: Path, bundle: Bundle
) -> None:
    training = bundle.manifest.training.model_copy(update={"recipe": {}})
    manifest = bundle.manifest.model_copy(update={"training": training})
    folder = tmp_path / "transit-ridership" / "1"
    write_bundle(folder, manifest, dict(bundle.files))
    with pytest.raises(RecipeError, match=r"no recipe, so nothing says what data judge it"):
        call(place, "evaluate", str(folder))
