"""A bundle that cannot be served is refused with its reason, and the others are served."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from service.contract.bundle import read_bundle, write_arrays, write_bundle
from service.contract.errors import BundleError
from service.engine.models.registry import load_model, load_registry
from service.engine.session.rules import seed_record
from service.errors import VersionGoneError
from service.stores.record.record import Key
from tests.engine.support import create_load
from tests.fakes.bundles import write_classifier, write_forecaster


@pytest.fixture
def folder(tmp_path):
    write_forecaster(tmp_path)
    write_classifier(tmp_path)
    return tmp_path


def reseal(folder, **files):
    """Replace files of the classifier and hash them anew: only a deeper check can refuse it."""
    path = folder / "mood" / "1"
    bundle = read_bundle(path)
    write_bundle(path, bundle.manifest, dict(bundle.files) | files)


@pytest.mark.parametrize("tokenizer", [b"{}", b"\xff\xfe\x00", b"", b"[]", b'{"model": null}'])
def test_a_tokenizer_that_is_none_does_not_stop_the_others(folder, tokenizer):
    reseal(folder, **{"tokenizer.json": tokenizer})
    registry = load_registry(folder, "cpu", 1)
    assert [model.name for model in registry.all()] == ["load"]
    assert list(registry.refused) == ["mood/1"]
    assert str(folder) not in registry.refused["mood/1"]


ODD = {
    "length of two axes": {"length": np.zeros((3, 2), np.int64)},
    "length of no axis": {"length": np.array(0)},
    "length of text": {"length": np.array(["a", "b", "c"])},
    "one row too few": {"in.tokens": np.zeros((2, 6), np.int64)},
    "inputs of one axis": {"in.tokens": np.zeros(6, np.int64)},
    "outputs of one axis": {"out.probabilities": np.zeros(3, np.float32)},
    "outputs of text": {"out.probabilities": np.full((3, 6, 2), "a")},
    "states of another shape": {"state.state_out": np.zeros((3, 5), np.float32)},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_golden_run_of_odd_shape_does_not_stop_the_others(folder, odd):
    arrays = read_bundle(folder / "mood" / "1").golden_arrays() | odd
    reseal(folder, **{"golden.npz": write_arrays(arrays)})
    registry = load_registry(folder, "cpu", 1)
    assert [model.name for model in registry.all()] == ["load"]
    assert list(registry.refused) == ["mood/1"]


@pytest.mark.parametrize("name", ["tokens", "length", "state"])
def test_a_graph_with_a_fixed_number_of_rows_is_refused(folder, name):
    bundle = read_bundle(folder / "mood" / "1")
    model = onnx.load_model_from_string(bundle.graph)
    [found] = [value for value in model.graph.input if value.name == name]
    found.type.tensor_type.shape.dim[0].dim_value = 3
    reseal(folder, **{"model.onnx": model.SerializeToString()})
    with pytest.raises(BundleError, match=rf"input '{name}' of the graph is .*\[3"):
        load_model(read_bundle(folder / "mood" / "1"))


def test_a_state_that_is_laid_out_otherwise_is_not_stepped_by_the_same_graph(folder):
    registry = load_registry(folder, "cpu", 1)
    model = registry.get("load")
    header = seed_record(Key("t", "a"), model, create_load(), now=0.0).header
    assert registry.get_for_session(header) is model
    other = replace(header, fingerprint=model.fingerprint._replace(state_schema="another"))
    with pytest.raises(VersionGoneError, match="with other weights or states"):
        registry.get_for_session(other)
    with pytest.raises(VersionGoneError):
        registry.get_for_reply(other)
