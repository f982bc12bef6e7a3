"""The model that is measured: GRU 2 × 128, 8 columns in, 24 × 9 numbers out, random weights."""

from pathlib import Path

import numpy as np
import onnx
import structlog
from onnx import TensorProto, helper, numpy_helper

from service.contract.bundle import write_arrays, write_bundle
from service.contract.golden import record_golden
from service.contract.manifest import Manifest
from service.contract.state import StateLayout
from service.engine.graph.runner import open_ort_session
from service.engine.models.registry import Registry, load_registry

F, H, LAYERS, K, Q = 8, 128, 2, 24, 9
COLUMNS = tuple(f"c{index}" for index in range(F))
LEVELS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95)
NAME = "bench"


def write_bench_bundle(folder: Path) -> Manifest:
    """`<folder>/bench/1/`."""
    graph = _model().SerializeToString()
    manifest = _manifest()
    ort_session = open_ort_session(graph, "cpu", 1)
    fetches = ["mean", "quantiles", "state_out"]

    def run(feeds):
        return dict(zip(fetches, ort_session.run(fetches, feeds), strict=True))

    x = np.random.default_rng(0).normal(size=(3, 8, F)).astype(np.float32)
    layout = StateLayout(manifest.graph.states, schema=manifest.graph.state_schema)
    golden = record_golden(manifest.graph, layout, {"x": x}, np.array([8, 0, 3]), run)
    files = {"model.onnx": graph, "golden.npz": write_arrays(golden.to_arrays())}
    return write_bundle(folder / NAME / "1", manifest, files)


def bench_registry(folder: Path) -> Registry:
    """The model, written and loaded."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    write_bench_bundle(folder / "models")
    return load_registry(folder / "models", "cpu", 1)


def _model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {
        "axis0": np.array([0], np.int64),
        "axis1": np.array([1], np.int64),
        "zero": np.zeros((), np.int64),
        "halves": np.array([H, H], np.int64),
        "by_level": np.array([0, 0, K, Q], np.int64),
        "head": rng.normal(0, 0.1, (H, K * Q)).astype(np.float32),
        "median": np.array(Q // 2, np.int64),
    }
    make = helper.make_node
    nodes = [
        make("IsNaN", ["x"], ["is_missing"]),
        make("CastLike", ["zero", "x"], ["zero_f"]),
        make("Where", ["is_missing", "zero_f", "x"], ["filled"]),
        make("Transpose", ["filled"], ["y0"], perm=[1, 0, 2]),
        make("Cast", ["length"], ["length32"], to=TensorProto.INT32),
        make("Split", ["state", "halves"], ["s0", "s1"], axis=1),
    ]
    for layer in range(LAYERS):
        size = F if layer == 0 else H
        for name, shape in (("W", (1, 3 * H, size)), ("R", (1, 3 * H, H)), ("B", (1, 6 * H))):
            weights[f"{name}{layer}"] = rng.normal(0, 0.1, shape).astype(np.float32)
        nodes += [
            make("Unsqueeze", [f"s{layer}", "axis0"], [f"h{layer}"]),
            make(
                "GRU",
                [*(f"{n}{layer}" for n in ("y", "W", "R", "B")), "length32", f"h{layer}"],
                [f"Y{layer}", f"Yh{layer}"],
                hidden_size=H,
                linear_before_reset=1,
            ),
            make("Squeeze", [f"Y{layer}", "axis1"], [f"y{layer + 1}"]),
            make("Squeeze", [f"Yh{layer}", "axis0"], [f"n{layer}"]),
        ]
    nodes += [
        make("Concat", ["n0", "n1"], ["new"], axis=1),
        make("Equal", ["length", "zero"], ["is_empty"]),
        make("Unsqueeze", ["is_empty", "axis1"], ["is_empty_column"]),
        make("Where", ["is_empty_column", "state", "new"], ["state_out"]),
        make("Transpose", [f"y{LAYERS}"], ["hidden"], perm=[1, 0, 2]),
        make("MatMul", ["hidden", "head"], ["flat"]),
        make("Reshape", ["flat", "by_level"], ["quantiles"]),
        make("Gather", ["quantiles", "median"], ["mean"], axis=3),
    ]

    def tensor(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        NAME,
        [
            tensor("x", TensorProto.FLOAT, ["batch", "time", F]),
            tensor("length", TensorProto.INT64, ["batch"]),
            tensor("state", TensorProto.FLOAT, ["batch", LAYERS * H]),
        ],
        [
            tensor("mean", TensorProto.FLOAT, ["batch", "time", K]),
            tensor("quantiles", TensorProto.FLOAT, ["batch", "time", K, Q]),
            tensor("state_out", TensorProto.FLOAT, ["batch", LAYERS * H]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _manifest() -> Manifest:
    unsealed = "0" * 64
    return Manifest.model_validate(
        {
            "format": "carry-bundle/1",
            "name": NAME,
            "version": "1",
            "title": "Benchmark model",
            "description": "Random weights; only its speed means anything.",
            "task": "forecast",
            "graph": {
                "file": "model.onnx",
                "inputs": [
                    {"name": "x", "dtype": "float32", "shape": ("batch", "time", F), "role": "x"},
                    {"name": "length", "dtype": "int64", "shape": ("batch",), "role": "length"},
                ],
                "outputs": [
                    {
                        "name": "mean",
                        "dtype": "float32",
                        "shape": ("batch", "time", K),
                        "role": "mean",
                    },
                    {
                        "name": "quantiles",
                        "dtype": "float32",
                        "shape": ("batch", "time", K, Q),
                        "role": "quantiles",
                    },
                ],
                "states": [
                    {
                        "input": "state",
                        "output": "state_out",
                        "dtype": "float32",
                        "shape": ("batch", LAYERS * H),
                    }
                ],
                "state_schema": "bench-gru-2x128/1",
            },
            "forecast": {
                "columns": [
                    {"name": name, "role": "past" if place else "target"}
                    for place, name in enumerate(COLUMNS)
                ],
                "frequency": "PT1H",
                "frequency_s": 3600,
                "horizon": K,
                "quantiles": LEVELS,
                "context_steps": 1,
            },
            "golden": {"file": "golden.npz", "tolerance": 1e-4},
            "training": {
                "recipe": {},
                "command": "python -m tests.benchmarks",
                "seed": 0,
                "versions": {},
                "data": [{"name": "none", "sha256": unsealed, "rows": 1, "licence": "none"}],
                "weights_licence": "none",
            },
            "quality": [],
            "files": {"model.onnx": unsealed, "golden.npz": unsealed},
            "manifest_sha256": unsealed,
        }
    )
