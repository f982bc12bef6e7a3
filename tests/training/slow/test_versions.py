"""Where a fit and an export write, beside a bundle that is served."""

import json
import shutil
from pathlib import Path

import pytest

from service.contract.bundle import read_bundle
from tests.training.slow.test_end_to_end import ROOT, call, to_toml
from training.evaluate.report import Evaluation
from training.export import bundle_writer
from training.tasks.forecast.task import ForecastTask


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def _exports_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for all exports of the one run, neither verified nor judged."""
    graphs: list[bytes] = []
    export_graph = bundle_writer.export_graph

    def export_once(*arguments) -> bytes:
        if not graphs:
            graphs.append(export_graph(*arguments))
        return graphs[0]

    monkeypatch.setattr(bundle_writer, "export_graph", export_once)
    monkeypatch.setattr(bundle_writer, "verify", lambda *_: None)
    judged = Evaluation(summary="Not judged.", figures=(), tables=(), plots=(), caveats=())
    monkeypatch.setattr(ForecastTask, "evaluate", lambda *_: judged)


@pytest.mark.usefixtures("_exports_are_quick")
def test_a_served_bundle_stays_as_it_is_until_told_otherwise(tmp_path: Path, tiny_recipe) -> None:
    """Sessions of version 1 would end if another model took its place."""
    models = tmp_path / "models" / "transit-ridership"
    shutil.copytree(ROOT / "models" / "transit-ridership" / "1", models / "1")
    served = files_of(models / "1")
    (tmp_path / "tiny.toml").write_text(to_toml(tiny_recipe.model_dump(mode="json")))

    assert call(tmp_path, "fit", str(tmp_path / "tiny.toml"), "--no-progress") == 0
    assert files_of(models / "1") == served
    second = read_bundle(models / "2").manifest
    assert (second.version, second.training.recipe["version"]) == ("2", "2")

    run = tmp_path / "runs" / "transit-ridership" / "001"
    assert call(tmp_path, "export", str(run)) == 0
    assert {path.name for path in models.iterdir()} == {"1", "2"}  # it is this very bundle

    told = json.loads((run / "run.json").read_text()) | {"command": "by hand"}
    (run / "run.json").write_text(json.dumps(told))
    assert call(tmp_path, "export", str(run)) == 0
    assert files_of(models / "1") == served
    assert read_bundle(models / "2").manifest == second
    assert read_bundle(models / "3").manifest.training.command == "by hand"

    resume = ["fit", str(tmp_path / "tiny.toml"), "--no-progress", "--resume"]
    assert call(tmp_path, *resume) == 0
    assert files_of(models / "1") == served
    assert call(tmp_path, *resume, "--overwrite") == 0
    assert {path.name for path in models.iterdir()} == {"1", "2", "3"}
    assert read_bundle(models / "1").manifest.training.command == "by hand"
