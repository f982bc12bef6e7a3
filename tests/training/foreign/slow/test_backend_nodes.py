"""Every recurrent node of ONNX's own backend tests, with its states exposed in many ways.

Each is imported, or refused with what to type next. Which of the two is certain is asserted.
"""

import copy
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.training.foreign.graphs import info
from tests.training.foreign.importing import imported_or_refused

OPS = ("RNN", "GRU", "LSTM")


def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of the other cases divide by zero
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return {
        case.name: case
        for case in found
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in OPS
    }


CASES = cases()


def exposed(case, *, are_free, are_weights_inside, has_length, prefix):
    """The node of a case with its states as inputs and outputs."""
    node = copy.deepcopy(case.model.graph.node[0])
    names = [value.name for value in case.model.graph.input]
    values = dict(zip(names, case.data_sets[0][0], strict=True))
    settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    is_batchwise = settings.get("layout", 0) == 1
    num_ways = 2 if settings.get("direction") == b"bidirectional" else 1
    batch, time = values["X"].shape[:2] if is_batchwise else values["X"].shape[1::-1]
    if are_free:
        batch, time = "batch", "seq"
    hidden = settings["hidden_size"]
    state = [batch, num_ways, hidden] if is_batchwise else [num_ways, batch, hidden]
    steps = [batch, time] if is_batchwise else [time, batch]
    answer = [*steps, num_ways, hidden] if is_batchwise else [time, num_ways, batch, hidden]

    inputs, weights = [info("X", [*steps, values["X"].shape[2]])], []
    for name in ("W", "R", "B", "P"):
        if name in values and are_weights_inside:
            weights.append(numpy_helper.from_array(values[name].astype(np.float32), name))
        elif name in values:
            inputs.append(info(name, values[name].shape))
    fed = [*(list(node.input) + [""] * 4)[:4], "", f"{prefix}initial_h"]
    if has_length:
        fed[4] = f"{prefix}lens"
        inputs.append(info(fed[4], [batch], TensorProto.INT32))
    inputs.append(info(fed[5], state))
    given = ["Y", f"{prefix}Y_h"]
    outputs = [info("Y", answer), info(given[1], state)]
    if node.op_type == "LSTM":
        fed += [f"{prefix}initial_c", *(["P"] if "P" in values else [])]
        given.append(f"{prefix}Y_c")
        inputs.append(info(fed[6], state))
        outputs.append(info(given[2], state))
    made = helper.make_node(node.op_type, fed, given, **settings)
    graph = helper.make_graph([made], "graph", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def saved(folder, graph):
    onnx.checker.check_model(graph)
    path = folder / "graph.onnx"
    path.write_bytes(graph.SerializeToString())
    return path


@pytest.mark.parametrize("name", CASES)
def test_the_node_as_it_is_has_no_state_and_is_refused(name, tmp_path):
    told = imported_or_refused(saved(tmp_path, CASES[name].model), models=tmp_path / "models")
    assert "export" in told


@pytest.mark.parametrize(
    ("has_length", "prefix"), [(False, ""), (False, "onnx::LSTM_"), (True, "onnx::LSTM_")]
)
@pytest.mark.parametrize("are_weights_inside", [True, False])
@pytest.mark.parametrize("are_free", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_node_with_its_states_is_imported_or_refused_with_what_to_type(
    name, are_free, are_weights_inside, has_length, prefix, tmp_path
):
    graph = exposed(
        CASES[name], are_free=are_free, are_weights_inside=are_weights_inside,
        has_length=has_length, prefix=prefix,
    )  # fmt: skip
    path, models = saved(tmp_path, graph), tmp_path / "models"
    told = imported_or_refused(path, models=models)
    if "batchwise" in name:
        assert "export it with layout 0" in told
    elif are_free and not are_weights_inside:
        assert "--constant W=VALUE,…" in told
    elif are_free and ("bidirectional" in name or "reverse" in name):
        assert "say --size seq=N" in told
        length = [] if not has_length else ["--size", "batch=1", "--constant", f"{prefix}lens=3"]
        assert imported_or_refused(path, "--size", "seq=3", *length, models=models) == ""
    elif has_length and not are_free:
        assert f"--constant {prefix}lens=VALUE" in told
        steps = CASES[name].data_sets[0][0][0].shape[0]
        length = f"{prefix}lens={steps}"
        assert imported_or_refused(path, "--constant", length, models=models) == ""
    else:
        assert told == ""
