"""A recipe says by their versions whose states mean the same; the manifest names their graphs."""

from pathlib import Path

import pytest

from service.contract.bundle import read_bundle
from tests.fakes.bundles import write_forecaster
from training.config import load_recipe
from training.errors import RecipeError
from training.export.compatible_states import compatible_states

RECIPES = Path(__file__).parents[3] / "training" / "recipes"


def recipe(*versions):
    shipped = load_recipe(RECIPES / "hello.toml")
    return shipped.model_copy(update={"name": "load", "compatible_with": versions})


def test_versions_are_named_by_their_graphs(tmp_path):
    for version in ("1", "2"):
        write_forecaster(tmp_path, version, seed=int(version))
    graphs = [
        read_bundle(tmp_path / "load" / version).manifest.files["model.onnx"]
        for version in ("2", "1")
    ]
    assert compatible_states(tmp_path, recipe("2", "1")) == tuple(graphs)
    assert compatible_states(tmp_path, recipe()) == ()


def test_a_version_that_is_not_there_or_damaged_is_named(tmp_path):
    write_forecaster(tmp_path)
    with pytest.raises(RecipeError, match="compatible_with names version 3"):
        compatible_states(tmp_path, recipe("1", "3"))
    (tmp_path / "load" / "1" / "model.onnx").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"compatible_with names version 1.*SHA-256"):
        compatible_states(tmp_path, recipe("1"))
