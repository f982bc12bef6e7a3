"""Files that are no graph, broken graphs, and weights in files beside the graph."""

import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.contract.bundle import read_bundle
from tests.training.foreign.graphs import info, model, recurrent, summed
from tests.training.foreign.importing import imported_or_refused
from training.foreign.choices import ImportGraphError
from training.foreign.graph_file import MAX_GRAPH_BYTES, read_graph, require_graph_file


def two_files(folder, **fields):
    """A graph whose weights, three ones, lie in `w.bin`."""
    graph = model(
        [
            helper.make_node("Mul", ["x", "w"], ["z"]),
            helper.make_node("Add", ["z", "s"], ["s_out"]),
            helper.make_node("Identity", ["s_out"], ["y"]),
        ],
        [info("x", ["batch", 3]), info("s", ["batch", 3])],
        [info("y", ["batch", 3]), info("s_out", ["batch", 3])],
        [numpy_helper.from_array(np.ones(3, np.float32), "w")],
    )
    [weights] = graph.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin"} | fields).items():
        weights.external_data.add(key=key, value=str(value))
    path = folder / "graph.onnx"
    path.write_bytes(graph.SerializeToString())
    (folder / "w.bin").write_bytes(np.ones(3, "<f4").tobytes())
    return path


def test_weights_in_a_file_beside_the_graph_are_taken_in(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    path = two_files(tmp_path / "in", length=12)
    monkeypatch.chdir(tmp_path)  # ONNX Runtime would look for them in the current folder
    assert imported_or_refused(path, models=tmp_path / "models") == ""
    bundle = read_bundle(tmp_path / "models" / "graph" / "1")
    [weights] = onnx.load_model_from_string(bundle.graph).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weights), np.ones(3))


def test_weights_of_a_graph_inside_a_graph_are_taken_in(tmp_path):
    path = two_files(tmp_path)
    outer = onnx.load_model(path, load_external_data=False)
    inner = helper.make_graph([], "inner", [], [info("v", [3])], [outer.graph.initializer[0]])
    inner.initializer[0].name = "v"
    node = helper.make_node("If", ["yes"], ["w2"], then_branch=inner, else_branch=inner)
    outer.graph.node.insert(0, node)
    path.write_bytes(outer.SerializeToString())
    data, _ = read_graph(path)
    assert b"w.bin" not in data


def test_a_graph_without_such_files_keeps_its_own_bytes(tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(summed({"s": "s_out"}).SerializeToString())
    data, _ = read_graph(path)
    assert data == path.read_bytes()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"location": "missing.bin"}, "keeps its weights in 'missing.bin', which is not beside it"),
        ({"location": "../w.bin"}, "lie in '../w.bin': expected a file beside graph.onnx"),
        ({"location": "/etc/passwd"}, "expected a file beside graph.onnx"),
        ({"location": ""}, "expected a file beside graph.onnx"),
        ({"location": "."}, "is not a regular file"),
        ({"location": "w\0.bin"}, "expected a file beside graph.onnx"),
        ({"location": "a" * 5000}, "is not beside it"),
        ({"offset": 4}, "w.bin is too short: weights 'w' end at byte 16, the file has 12"),
        ({"offset": -4}, "offset '-4': expected a number of bytes"),
        ({"offset": "x"}, "offset 'x': expected a number of bytes"),
        ({"offset": 10**30}, "expected a number of bytes"),
        ({"length": 2**31}, "expected 12 bytes for [3], the graph says 2,147,483,648"),
    ],
)
def test_weights_that_are_elsewhere_or_short_are_refused(tmp_path, fields, told):
    with pytest.raises(ImportGraphError) as refused:
        read_graph(two_files(tmp_path, **fields))
    assert told in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_link_may_not_lead_outside(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "secret.bin"
    folder.mkdir()
    path = two_files(folder)
    (folder / "w.bin").rename(outside)
    (folder / "w.bin").symlink_to(outside)
    with pytest.raises(ImportGraphError, match=r"leads outside the folder .* cp -L"):
        read_graph(path)
    (folder / "w.bin").unlink()
    os.mkfifo(folder / "w.bin")
    with pytest.raises(ImportGraphError, match="is not a regular file"):
        read_graph(path)


def test_graph_and_weights_may_both_be_links_into_one_cache(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    path = two_files(tmp_path)
    shutil.move(path, blobs / "1")
    shutil.move(tmp_path / "w.bin", blobs / "2")
    (snapshot / "graph.onnx").symlink_to("../blobs/1")
    (snapshot / "w.bin").symlink_to("../blobs/2")
    read_graph(snapshot / "graph.onnx")


def test_weights_that_claim_gigabytes_are_refused_unread(tmp_path):
    path = two_files(tmp_path)
    graph = onnx.load_model(path, load_external_data=False)
    graph.graph.initializer[0].dims[:] = [2**30, 3]
    path.write_bytes(graph.SerializeToString())
    with (tmp_path / "w.bin").open("r+b") as file:
        file.truncate(2**34)  # nothing is written: it has holes
    with pytest.raises(ImportGraphError, match="bytes with its weights: expected at most"):
        read_graph(path)


GOOD = recurrent().SerializeToString()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04 and so on", "zip archive"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\x00\x00\x00\x00ORTM and so on", "ORT format"),
    ],
)
def test_another_kind_of_file_is_recognised(tmp_path, data, told):
    path = tmp_path / "graph.onnx"
    path.write_bytes(data)
    with pytest.raises(ImportGraphError, match=told):
        require_graph_file(path)


@pytest.mark.parametrize(
    "data",
    [b"a text\n" * 40, bytes(4096), b"\n", GOOD[:1], GOOD[:100], GOOD[:-1],
     np.random.default_rng(0).bytes(3000)],
)  # fmt: skip
def test_what_does_not_parse_is_refused(tmp_path, data):
    path = tmp_path / "graph.onnx"
    path.write_bytes(data)
    require_graph_file(path)
    with pytest.raises(ImportGraphError, match=r"is not an ONNX graph.* again"):
        read_graph(path)


def test_what_is_not_a_file_is_refused_with_what_was_expected(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.onnx").write_bytes(GOOD)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name, told in (
        ("folder", "is a folder: .* it holds a.onnx: name one"), ("fifo", "is not a regular file"),
        ("loop", "does not exist"), ("nothing", "does not exist"), ("x" * 300, "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(ImportGraphError, match=told):
            require_graph_file(tmp_path / name)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_GRAPH_BYTES + 1)
    with pytest.raises(ImportGraphError, match="expected at most 2,146,435,072"):
        require_graph_file(tmp_path / "huge")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--name", "Bad Name"], "--name 'Bad Name': expected small letters"),
        (["--name", "../up"], "--name '../up': expected small letters"),
        (["--version", "0"], "--version '0': expected a whole number from 1 on"),
        (["--version", "latest"], "expected a whole number from 1 on"),
        (["--tolerance", "0"], "--tolerance 0: expected more than 0"),
        (["--tolerance", "nan"], "--tolerance nan: expected more than 0"),
        (["--tolerance", "1"], "expected more than 0 and at most 0.01"),
    ],
)
def test_what_no_manifest_can_have_is_refused_first(tmp_path, options, told):
    path = tmp_path / "missing.onnx"
    assert told in imported_or_refused(path, *options, models=tmp_path / "models")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(summed({"s": "s_out"}).SerializeToString())
    (tmp_path / "models").write_text("not a folder")
    assert "cannot be written" in imported_or_refused(path, models=tmp_path / "models")


def test_names_of_files_that_are_not_text_or_look_like_markup_are_imported(tmp_path):
    for index, name in enumerate((os.fsdecode(b"m\xff.onnx"), "[red]m[bold.onnx")):
        path = tmp_path / name
        path.write_bytes(summed({"s": "s_out"}).SerializeToString())
        assert imported_or_refused(path, models=tmp_path / f"[b]models{index}") == ""
