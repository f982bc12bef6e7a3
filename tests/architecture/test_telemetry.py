"""The runtime of the models makes no identifier of the machine and reports to nobody."""

import ast
import os
import subprocess
import sys

import pytest

from tests.architecture.project_files import ROOT, project_files

PLACES = ["service/engine/graph/ort.py", "training/ort.py"]


def imports_onnxruntime(path) -> bool:
    tree = ast.parse((ROOT / path).read_text())
    names = [
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    ]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any(name.split(".")[0] == "onnxruntime" for name in names)


def test_the_runtime_is_imported_in_one_place_of_each_package() -> None:
    ours = [path for path in project_files(".py") if path.parts[0] in ("service", "training")]
    assert [str(path) for path in ours if imports_onnxruntime(path)] == PLACES


def files_left_by(module: str, home, **environment: str) -> list[str]:
    home.mkdir()
    command = [sys.executable, "-c", f"import {module}"]
    # Nothing else of this environment: the runtime is silent where it finds itself tested (`CI`).
    given = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    given |= environment
    subprocess.run(command, cwd=ROOT, env=given, check=True)
    return [path.name for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("module", ["service.engine.graph.ort", "training.ort"])
def test_importing_it_leaves_no_identifier_of_the_machine(module, tmp_path) -> None:
    assert files_left_by(module, tmp_path / "ours") == []


def test_that_identifier_would_be_found(tmp_path) -> None:
    left = files_left_by("service.engine.graph.ort", tmp_path / "asked", ORT_DISABLE_TELEMETRY="0")
    assert "deviceid" in left
