"""A bundle is exactly what was exported, or it is refused with the reason."""

import json

import onnx
import pytest
from onnx import TensorProto, helper

from service.contract.bundle import read_bundle, read_manifest, write_arrays, write_bundle
from service.contract.errors import BundleError, GoldenMismatchError
from service.contract.golden import GoldenRun, record_golden
from service.contract.graph_scan import refuse_external_data
from service.contract.manifest import Manifest
from service.engine.graph.runner import open_ort_session
from service.engine.models.registry import load_model, load_registry
from tests.fakes.bundles import write_classifier, write_forecaster


@pytest.fixture
def folder(tmp_path):
    write_classifier(tmp_path)
    return tmp_path / "mood" / "1"


def rewrite(folder, change_manifest=None, change_graph=None):
    """Write a changed bundle with new hashes, so that only deeper checks can refuse it."""
    bundle = read_bundle(folder)
    fields = bundle.manifest.model_dump(mode="json")
    if change_manifest:
        change_manifest(fields)
    files = dict(bundle.files)
    if change_graph:
        model = onnx.load_model_from_string(bundle.graph)
        change_graph(model)
        files["model.onnx"] = model.SerializeToString()
    write_bundle(folder, Manifest.model_validate(fields), files)


def test_a_written_bundle_can_be_read_and_loaded(folder):
    model = load_model(read_bundle(folder))
    assert (model.name, model.version) == ("mood", "1")


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_one_corrupted_byte_in_any_file_is_refused(folder, name, part):
    data = bytearray((folder / name).read_bytes())
    data[part * (len(data) - 1) // 2] ^= 0x01
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=name):
        read_bundle(folder)


def test_a_manifest_changed_after_export_is_refused(folder):
    fields = json.loads((folder / "manifest.json").read_text())
    fields["labels"] = ["positive", "negative"]
    (folder / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(BundleError, match="changed after export"):
        read_bundle(folder)


def test_a_manifest_from_the_future_is_refused(folder):
    fields = json.loads((folder / "manifest.json").read_text())
    fields["format"] = "carry-bundle/2"
    (folder / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(
        BundleError, match="expected format 'carry-bundle/1', found 'carry-bundle/2'"
    ):
        read_bundle(folder)


def test_a_file_that_the_manifest_does_not_name_is_refused(folder):
    (folder / "extra.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"not in the manifest \['extra.bin'\]"):
        read_bundle(folder)


def test_a_missing_file_is_refused(folder):
    (folder / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"missing \['golden.npz'\]"):
        read_bundle(folder)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    outside = tmp_path / "model.onnx"
    outside.write_bytes((folder / "model.onnx").read_bytes())
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="no links"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b.onnx", ".hidden"])
def test_a_manifest_cannot_name_a_path(folder, name):
    fields = json.loads((folder / "manifest.json").read_text())
    fields["graph"]["file"] = name
    (folder / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=r"graph\.file"):
        read_bundle(folder)


def test_a_folder_under_another_name_is_refused(folder):
    moved = folder.parent.parent / "other"
    folder.parent.rename(moved)
    with pytest.raises(BundleError, match="found that of mood/1"):
        read_bundle(moved / "1")


def test_shapes_that_disagree_with_the_graph_are_refused(folder):
    def widen(fields):
        fields["graph"]["states"][0]["shape"] = ["batch", 5]

    rewrite(folder, change_manifest=widen)
    with pytest.raises(BundleError, match=r"'state' of the graph is tensor\(float\)"):
        load_model(read_bundle(folder))


def test_names_that_the_graph_does_not_have_are_refused(folder):
    def rename(fields):
        fields["graph"]["outputs"][0]["name"] = "scores"

    rewrite(folder, change_manifest=rename)
    with pytest.raises(BundleError, match="the graph's outputs are"):
        load_model(read_bundle(folder))


def test_a_graph_that_computes_something_else_is_refused(folder):
    def change_a_weight(model):
        head = next(t for t in model.graph.initializer if t.name == "head")
        values = onnx.numpy_helper.to_array(head).copy()
        values[0, 0] += 0.1
        head.CopyFrom(onnx.numpy_helper.from_array(values, "head"))

    rewrite(folder, change_graph=change_a_weight)
    with pytest.raises(GoldenMismatchError, match="fed whole: 'probabilities' differs"):
        load_model(read_bundle(folder))


def test_swapped_states_are_refused(tmp_path):
    """Two states of one shape: only the golden run shows that they were swapped."""
    manifest = write_forecaster(tmp_path)
    folder = tmp_path / "load" / "1"

    def add_a_second_state(model):
        graph = model.graph
        graph.node.append(
            helper.make_node("ReduceSum", ["hidden", "direction_axis"], ["sum"], keepdims=0)
        )
        graph.node.append(helper.make_node("Add", ["state2", "sum"], ["state2_out"]))
        for values, name in ((graph.input, "state2"), (graph.output, "state2_out")):
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]))

    def declare(pairs):
        def change(fields):
            fields["graph"]["states"] = [
                {"input": fed, "output": out, "dtype": "float32", "shape": ["batch", 4]}
                for fed, out in pairs
            ]

        return change

    assert manifest.graph.states[0].input == "state"
    right = [("state", "state_out"), ("state2", "state2_out")]
    rewrite(folder, declare(right), add_a_second_state)
    _record_again(folder)
    load_model(read_bundle(folder))

    rewrite(folder, declare([("state", "state2_out"), ("state2", "state_out")]))
    with pytest.raises(GoldenMismatchError, match="states are paired wrongly"):
        load_model(read_bundle(folder))


def _record_again(folder):
    bundle = read_bundle(folder)
    graph, layout = bundle.manifest.graph, bundle.state_layout()
    golden = GoldenRun.from_arrays(bundle.golden_arrays())
    session = open_ort_session(bundle.graph, "cpu", 1)
    names = [output.name for output in session.get_outputs()]
    recorded = record_golden(
        graph,
        layout,
        golden.inputs,
        golden.length,
        lambda feeds: dict(zip(names, session.run(names, feeds), strict=True)),
    )
    files = dict(bundle.files) | {"golden.npz": write_arrays(recorded.to_arrays())}
    write_bundle(folder, bundle.manifest, files)


def external(tensor):
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def test_external_data_is_refused(folder):
    rewrite(folder, change_graph=lambda model: external(model.graph.initializer[0]))
    with pytest.raises(BundleError, match="outside the file"):
        read_bundle(folder)


def test_external_data_in_a_sub_graph_is_refused():
    hidden = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    external(hidden)
    constant = helper.make_node("Constant", [], ["y"])
    constant.attribute.append(helper.make_attribute("value", hidden))
    branch = helper.make_graph([constant], "branch", [], [])
    node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    with pytest.raises(BundleError, match="outside the file"):
        refuse_external_data(model.SerializeToString(), "g")


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x3a\x7f", b"\x0f"]
)
def test_bytes_that_are_not_protobuf_are_refused(data):
    with pytest.raises(BundleError, match="not a readable ONNX file"):
        refuse_external_data(data, "g")


def test_a_bad_bundle_does_not_stop_the_others(folder):
    write_forecaster(folder.parent.parent)
    (folder / "model.onnx").write_bytes(b"no graph")
    registry = load_registry(folder.parent.parent, "cpu", 1)
    assert [model.name for model in registry.all()] == ["load"]
    assert "SHA-256" in registry.refused["mood/1"]


def test_a_folder_in_place_of_the_manifest_is_named(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    for read in (read_manifest, read_bundle):
        with pytest.raises(BundleError, match=r"^mood/1/manifest\.json: expected plain files only"):
            read(folder)
