"""ONNX graphs for `import-onnx`: single recurrent nodes, and a sum with any names."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.contract.tensors import ONNX_TYPES
from training.evaluate.served_model import make_run
from training.foreign.choices import Choices, GraphCallError
from training.foreign.graph_child import reason
from training.foreign.inspection import Inspection
from training.foreign.recurrence import recurrence_of
from training.foreign.signature import Signature, Tensor

F32 = TensorProto.FLOAT
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
INPUT_SIZE, HIDDEN_SIZE = 3, 5


def recurrent(
    op: str = "GRU",
    *,
    names: dict[str, str] | None = None,
    batch: object = "batch",
    time: object = "seq",
    direction: str = "forward",
    with_length: bool = False,
    with_c: bool = True,
) -> onnx.ModelProto:
    """One node with its states exposed, called as ONNX calls them unless `names` says otherwise."""
    called = {key: key for key in ("X", "Y", "initial_h", "Y_h", "initial_c", "Y_c", "lens")}
    called |= names or {}
    rng = np.random.default_rng(0)
    num_ways, rows = 1 + (direction == "bidirectional"), GATES[op] * HIDDEN_SIZE
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.4, (num_ways, *size)).astype(np.float32), name)
        for name, size in (
            ("W", (rows, INPUT_SIZE)), ("R", (rows, HIDDEN_SIZE)), ("B", (2 * rows,)),
        )
    ]  # fmt: skip
    state = [num_ways, batch, HIDDEN_SIZE]
    inputs = [info(called["X"], [time, batch, INPUT_SIZE])]
    fed = [called["X"], "W", "R", "B", "", called["initial_h"]]
    if with_length:
        inputs.append(info(called["lens"], [batch], TensorProto.INT32))
        fed[4] = called["lens"]
    inputs.append(info(called["initial_h"], state))
    given = [called["Y"], called["Y_h"]]
    outputs = [info(called["Y"], [time, num_ways, batch, HIDDEN_SIZE]), info(given[1], state)]
    if op == "LSTM" and with_c:
        inputs.append(info(called["initial_c"], state))
        outputs.append(info(called["Y_c"], state))
        fed, given = [*fed, called["initial_c"]], [*given, called["Y_c"]]
    node = helper.make_node(op, fed, given, hidden_size=HIDDEN_SIZE, direction=direction)
    return model([node], inputs, outputs, weights)


def summed(
    states: dict[str, str],
    *,
    x: str = "x",
    shape: Sequence[object] = ("batch", 3),
    inputs: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    """Each state becomes itself and x; y is the sum of all."""
    nodes = [helper.make_node("Add", [before, x], [after]) for before, after in states.items()]
    nodes.append(helper.make_node("Sum", [x, *states.values()], ["y"]))
    return model(
        nodes,
        [info(x, shape), *(info(name, shape) for name in states), *inputs],
        [info("y", shape), *(info(name, shape) for name in states.values())],
    )


def info(name: str, shape: Sequence[object], kind: int = F32) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    opset: int = 18,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def signature_of(graph: onnx.ModelProto) -> Signature:
    """As the child process describes it."""

    def tensors(values):
        return {
            value.name: Tensor(
                value.name,
                ONNX_TYPES[helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name],
                [axis.dim_param or axis.dim_value or None
                 for axis in value.type.tensor_type.shape.dim],
            )
            for value in values
        }  # fmt: skip

    return Signature(tensors(graph.graph.input), tensors(graph.graph.output), recurrence_of(graph))


def inspected(graph: onnx.ModelProto, *options: str) -> Inspection:
    """What `import-onnx` makes of a graph with options such as `--size seq=4`."""
    choices = Choices()
    words = list(options)
    while words:
        option = words.pop(0)
        if option == "--one-row":
            choices.one_row = True
        else:
            choices.answer(option, words.pop(0))
    run = make_run(graph.SerializeToString())

    def run_as_child(feeds):
        try:
            return run(feeds)
        except Exception as error:
            raise GraphCallError(f"a call failed: {reason(error, '')}") from None

    return Inspection(signature_of(graph), run_as_child, choices)


def served(graph: onnx.ModelProto, *options: str):
    """The manifest's view of it; every question must have been answered."""
    inspection = inspected(graph, *options)
    assert [str(question) for question in inspection.questions()] == []
    return inspection.graph_spec("graph/1")
