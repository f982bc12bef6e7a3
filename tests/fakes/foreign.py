"""A graph as a stranger would make it: float16, states of two shapes, a gain, no steps, no length.

`s' = s/2 + x`, `n' = n + 1`, `y = gain · s'`, for x `[batch, 3]`, s `[1, batch, 3]`, n `[batch]`.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F16, I64 = TensorProto.FLOAT16, TensorProto.INT64


def leaky_graph(rows: object = "batch") -> bytes:
    nodes = [
        helper.make_node("Mul", ["s", "half"], ["decayed"]),
        helper.make_node("Add", ["decayed", "x"], ["s_out"]),
        helper.make_node("Squeeze", ["s_out", "first"], ["current"]),
        helper.make_node("Mul", ["current", "gain"], ["y"]),
        helper.make_node("Add", ["n", "one"], ["n_out"]),
    ]
    weights = {
        "half": np.array(0.5, np.float16),
        "one": np.array(1, np.int64),
        "first": np.array([0], np.int64),
    }
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "leaky",
        [
            info("x", F16, [rows, 3]),
            info("gain", F16, []),
            info("s", F16, [1, rows, 3]),
            info("n", I64, [rows]),
        ],
        [
            info("y", F16, [rows, 3]),
            info("s_out", F16, [1, rows, 3]),
            info("n_out", I64, [rows]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def leaky(xs: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """What the graph answers to `[T, 3]`, step by step."""
    state, answers = np.zeros(3, np.float16), []
    for x in xs.astype(np.float16):
        state = state * np.float16(0.5) + x
        answers.append(state * np.float16(gain))
    return np.array(answers)
