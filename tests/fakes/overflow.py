"""Bundles whose graph comes to NaN for some inputs, and to the same as before for all others."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from service.contract.bundle import Bundle, read_bundle, write_arrays, write_bundle
from service.contract.golden import GoldenRun, record_golden
from service.engine.graph.runner import open_ort_session

HUGE = 1e20
"""Its square is no float32."""

_VOCABULARY = 4096


def make_overflow(
    folder: Path, part: Literal["outputs", "state"], token: int | None = None
) -> None:
    """Write a bundle anew: NaN comes from a value of `HUGE`, or from one token."""
    bundle = read_bundle(folder)
    model = onnx.load_from_string(bundle.graph)
    graph, spec = model.graph, bundle.manifest.graph
    spoilt = {each.name: len(each.shape) for each in spec.outputs}
    if part == "state":
        spoilt = {each.output: len(each.shape) for each in spec.states}
    for node in graph.node:
        node.input[:] = [f"{name}_fine" if name in spoilt else name for name in node.input]
        node.output[:] = [f"{name}_fine" if name in spoilt else name for name in node.output]
    table = np.zeros((_VOCABULARY, 1), np.float32)
    table[token if token is not None else -1] = HUGE
    weights = {
        "o_table": table,
        "o_zero": np.zeros((), np.float32),
        "o_last": np.array([-1], np.int64),
        "o_time": np.array([1], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in weights.items())
    make = helper.make_node
    if token is None:
        graph.node.append(make("IsNaN", ["x"], ["o_missing"]))
        graph.node.append(make("Where", ["o_missing", "o_zero", "x"], ["o_read"]))
    else:
        graph.node.append(make("Gather", ["o_table", "tokens"], ["o_read"]))
    graph.node.append(make("Mul", ["o_read", "o_read"], ["o_squares"]))
    graph.node.append(make("Mul", ["o_squares", "o_zero"], ["o_values"]))  # 0 × infinity is NaN
    graph.node.append(make("ReduceSum", ["o_values", "o_last"], ["o_3"], keepdims=1))
    graph.node.append(make("Unsqueeze", ["o_3", "o_last"], ["o_4"]))
    graph.node.append(make("ReduceSum", ["o_3", "o_time"], ["o_2"], keepdims=0))
    for name, num_axes in spoilt.items():
        graph.node.append(make("Add", [f"{name}_fine", f"o_{num_axes}"], [name]))
    onnx.checker.check_model(model)
    _rewrite(folder, bundle, model.SerializeToString(), token)


def _rewrite(folder: Path, bundle: Bundle, graph: bytes, token: int | None) -> None:
    session = open_ort_session(graph, "cpu", 1)
    fetches = [each.name for each in session.get_outputs()]
    golden = GoldenRun.from_arrays(bundle.golden_arrays())
    inputs = dict(golden.inputs)
    if token is not None:
        inputs["tokens"] = np.where(inputs["tokens"] == token, 0, inputs["tokens"])
    recorded = record_golden(
        bundle.manifest.graph,
        bundle.state_layout(),
        inputs,
        golden.length,
        lambda feeds: dict(zip(fetches, session.run(fetches, feeds), strict=True)),
    )
    files = {**bundle.files, "model.onnx": graph, "golden.npz": write_arrays(recorded.to_arrays())}
    write_bundle(folder, bundle.manifest, files)
