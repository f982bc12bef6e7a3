"""Nothing in a graph ends the command, holds it up, or outlives it."""

import os
import re
import signal

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.training.foreign.graphs import info, model, recurrent, summed
from tests.training.foreign.importing import imported_or_refused
from training.foreign.choices import Choices, GraphCallError, ImportGraphError
from training.foreign.command import write_bundle_of
from training.foreign.graph_process import GraphProcess


def saved(folder, graph):
    path = folder / "graph.onnx"
    path.write_bytes(graph.SerializeToString())
    return path


def endless():
    """A Loop whose condition stays true."""
    body = helper.make_graph(
        [helper.make_node("Identity", [a], [b]) for a, b in (("c", "c2"), ("v", "v2"))],
        "body",
        [
            info("i", [], TensorProto.INT64),
            info("c", [], TensorProto.BOOL),
            info("v", ["batch", 3]),
        ],
        [info("c2", [], TensorProto.BOOL), info("v2", ["batch", 3])],
    )
    return model(
        [
            helper.make_node("Loop", ["", "true", "s"], ["t"], body=body),
            helper.make_node("Add", ["x", "t"], ["s_out"]),
            helper.make_node("Identity", ["s_out"], ["y"]),
        ],
        [info("x", ["batch", 3]), info("s", ["batch", 3])],
        [info("y", ["batch", 3]), info("s_out", ["batch", 3])],
        [numpy_helper.from_array(np.array(True), "true")],
    )


def greedy():
    """It asks for 9 GB, which many machines have."""
    return model(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Mul", ["shape", "times"], ["big"]),
            helper.make_node("ConstantOfShape", ["big"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Sum", ["x", "zero", "s"], ["s_out"]),
            helper.make_node("Identity", ["s_out"], ["y"]),
        ],
        [info("x", ["batch", 3]), info("s", ["batch", 3])],
        [info("y", ["batch", 3]), info("s_out", ["batch", 3])],
        [numpy_helper.from_array(np.array([2**14, 23_000]), "times")],
    )


FEEDS = {"x": np.ones((2, 3), np.float32), "s": np.zeros((2, 3), np.float32)}


def test_a_call_answers_what_the_graph_answers_and_the_child_ends_with_the_block(tmp_path):
    with GraphProcess(saved(tmp_path, summed({"s": "s_out"}))) as graph:
        answers = graph.run(FEEDS)
        np.testing.assert_array_equal(answers["y"], np.full((2, 3), 2))
        empty = {name: value[:0] for name, value in FEEDS.items()}
        assert graph.run(empty)["y"].shape == (0, 3)
        with pytest.raises(GraphCallError, match="failed"):
            graph.run({"x": np.ones((2, 3), np.float32), "s": np.ones((5, 3), np.float32)})
        graph.run(FEEDS)  # a failed call does not end it
    assert graph._process.returncode is not None


def test_the_child_ends_if_its_parent_is_interrupted(tmp_path):
    path = saved(tmp_path, summed({"s": "s_out"}))
    with pytest.raises(KeyboardInterrupt), GraphProcess(path) as graph:
        raise KeyboardInterrupt
    assert graph._process.returncode is not None


@pytest.mark.parametrize("killed_by", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_reported_with_what_to_do(tmp_path, killed_by):
    with GraphProcess(saved(tmp_path, summed({"s": "s_out"}))) as graph:
        os.kill(graph._process.pid, killed_by)
        with pytest.raises(ImportGraphError, match=rf"crashed \({killed_by.name}\)") as refused:
            graph.run(FEEDS)
    remedy = "smaller model" if killed_by == signal.SIGKILL else "export it again"
    assert remedy in str(refused.value)


def test_a_loop_without_an_end_is_ended_by_the_limit(tmp_path):
    with GraphProcess(saved(tmp_path, endless())) as graph:
        graph._left_s = 0.3
        with pytest.raises(ImportGraphError, match=r"took more than 120 s to run .* --limit-s"):
            graph.run(FEEDS)


def test_a_graph_that_asks_for_too_much_memory_is_refused(tmp_path):
    told = pytest.raises(GraphCallError, match="too much memory")
    with GraphProcess(saved(tmp_path, greedy())) as graph, told:
        graph.run(FEEDS)


BROKEN = {
    "custom operator": (
        lambda: changed(summed({"s": "s_out"}), op_type="Mine"), "without operators of your own",
    ),
    "unknown opset": (
        lambda: model(**parts(summed({"s": "s_out"})), opset=99), "opset_version=18",
    ),
    "cycle": (lambda: cyclic(), "not acyclic"),
    "batchwise": (lambda: batchwise(), "export it with layout 0"),
    "text": (lambda: text(), "expected a tensor of float32"),
    "no rank": (lambda: without_rank(), "has no shape"),
}  # fmt: skip


def parts(graph):
    return {"nodes": graph.graph.node, "inputs": graph.graph.input, "outputs": graph.graph.output}


def changed(graph, op_type):
    graph.graph.node[0].op_type = op_type
    return graph


def cyclic():
    graph = summed({"s": "s_out"})
    graph.graph.node[0].input[1] = "y"
    return graph


def batchwise():
    graph = recurrent()
    graph.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
    return graph


def text():
    graph = summed({"s": "s_out"}, inputs=[info("t", ["batch"], TensorProto.STRING)])
    graph.graph.node.append(helper.make_node("Identity", ["t"], ["u"]))
    graph.graph.output.append(info("u", ["batch"], TensorProto.STRING))
    return graph


def without_rank():
    graph = summed({"s": "s_out"})
    graph.graph.input[0].type.tensor_type.ClearField("shape")
    return graph


@pytest.mark.parametrize("what", BROKEN)
def test_a_graph_that_cannot_be_loaded_is_refused_in_one_line(tmp_path, what):
    make, told = BROKEN[what]
    found = imported_or_refused(saved(tmp_path, make()), models=tmp_path / "models")
    assert told in found
    assert "onnxruntime::" not in found, "where it was compiled helps nobody"


def test_a_wrong_answer_at_the_terminal_is_asked_again(tmp_path):
    path = saved(tmp_path, recurrent(time="q"))
    answers, asked = ["many", "0", "time"], []

    def ask(what):
        asked.append(what)
        return answers[len(asked) - 1]

    write_bundle_of(path, Choices(), ask, "graph", "1", "", "MIT", 1e-4, "import", tmp_path)
    assert (tmp_path / "graph" / "1").exists()
    assert len(set(asked)) == 1
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("direction", "told"),
    [
        ("bidirectional", "GRU reads the steps backwards too, .* say --size seq=N"),
        ("reverse", "reads the steps backwards too"),
    ],
)
def test_a_graph_that_reads_backwards_is_refused_with_the_option_that_serves_it(
    tmp_path, direction, told
):
    path = saved(tmp_path, recurrent(direction=direction))
    models = tmp_path / "models"
    found = imported_or_refused(path, models=models)
    assert re.search(told, found)
    assert imported_or_refused(path, "--size", "seq=4", models=models) == ""
