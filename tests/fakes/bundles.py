"""Small real bundles, made with the onnx package: a forecaster, a classifier, a generator of
texts, one of texts about vectors, and a tagger, each with a GRU inside.

They are as strict as the models that training exports (missing values, rows of length 0, one
packed state or several named ones), but take milliseconds to make and to run.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, trainers

from service.contract.bundle import write_arrays, write_bundle
from service.contract.golden import record_golden
from service.contract.manifest import Manifest
from service.contract.state import StateLayout
from service.engine.graph.runner import open_ort_session

H = 4
HORIZON = 3
QUANTILES = (0.1, 0.5, 0.9)
COLUMNS = ("load", "temp")
CHARACTERS = "abc .é"
VECTOR_COLUMNS = ("red", "green", "blue")
DAY_S = 86_400
TEXTS = ("a wonderful film", "a waste of time", "정말 최고다", "재미없다", "don't miss it!!")

Node = onnx.NodeProto


def write_forecaster(
    folder: Path,
    version: str = "1",
    seed: int = 0,
    *,
    uses_time: bool = True,
    horizon: int = HORIZON,
) -> Manifest:
    """`<folder>/load/<version>/`: two columns, horizon 3, three quantiles."""
    rng = np.random.default_rng(seed)
    num_inputs = len(COLUMNS) + uses_time
    weights = _gru_weights(rng, num_inputs) | {
        "head": rng.normal(0, 0.5, (H, horizon)).astype(np.float32),
        "spread": np.array([-1.0, 0.0, 1.0], np.float32),
        "zero": np.zeros((), np.float32),
        "last": np.array([-1], np.int64),
        "week": np.array(7 * DAY_S, np.int64),
        "day": np.array(DAY_S, np.float32),
    }
    nodes = [helper.make_node("IsNaN", ["x"], ["is_missing"])]
    nodes.append(helper.make_node("Where", ["is_missing", "zero", "x"], ["filled"]))
    if uses_time:
        nodes += [
            helper.make_node("Mod", ["time", "week"], ["in_week"]),
            helper.make_node("Cast", ["in_week"], ["in_week_f"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["in_week_f", "day"], ["weekday"]),
            helper.make_node("Unsqueeze", ["weekday", "last"], ["weekday_column"]),
            helper.make_node("Concat", ["filled", "weekday_column"], ["features"], axis=2),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["filled"], ["features"]))
    nodes += _gru_nodes()
    nodes += [
        helper.make_node("MatMul", ["hidden", "head"], ["mean"]),
        helper.make_node("Unsqueeze", ["mean", "last"], ["mean_column"]),
        helper.make_node("Add", ["mean_column", "spread"], ["quantiles"]),
    ]
    inputs = [("x", "float32", ("batch", "time", len(COLUMNS)), "x")]
    inputs += [("time", "int64", ("batch", "time"), "time")] if uses_time else []
    outputs = [
        ("mean", "float32", ("batch", "time", horizon), "mean"),
        ("quantiles", "float32", ("batch", "time", horizon, len(QUANTILES)), "quantiles"),
    ]
    length = np.array([7, 0, 4, 1])
    x = rng.normal(0, 1, (4, 7, len(COLUMNS))).astype(np.float32)
    x[0, 2, 1] = x[2, 0, 0] = np.nan
    golden = {"x": x}
    if uses_time:
        golden["time"] = 1_471_824_000 + DAY_S * np.tile(np.arange(7), (4, 1))
    task = {
        "task": "forecast",
        "forecast": {
            "columns": [
                {"name": "load", "role": "target", "unit": "MW"},
                {"name": "temp", "role": "past", "unit": "°F"},
            ],
            "frequency": "P1D",
            "frequency_s": DAY_S,
            "horizon": horizon,
            "quantiles": QUANTILES,
            "context_steps": 7,
        },
    }
    return _write(folder, "load", version, nodes, weights, inputs, outputs, golden, length, task)


def write_classifier(folder: Path, version: str = "1", seed: int = 0) -> Manifest:
    """`<folder>/mood/<version>/`: texts to `negative` or `positive`."""
    rng = np.random.default_rng(seed)
    tokenizer = small_tokenizer()
    size = tokenizer.get_vocab_size()
    weights = _gru_weights(rng, H) | {
        "embedding": rng.normal(0, 1, (size, H)).astype(np.float32),
        "head": rng.normal(0, 2, (H, 2)).astype(np.float32),
    }
    nodes = [helper.make_node("Gather", ["embedding", "tokens"], ["features"])]
    nodes += _gru_nodes()
    nodes += [
        helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    length = np.array([6, 0, 3])
    golden = {"tokens": rng.integers(0, size, (3, 6))}
    task = {
        "task": "classify",
        "labels": ["negative", "positive"],
        "text": {
            "tokenizer": "tokenizer.json",
            "piece_rule": "carry-pieces/1",
            "start_token": tokenizer.token_to_id("[START]"),
            "vocabulary_size": size,
            "language": "en",
        },
    }
    inputs = [("tokens", "int64", ("batch", "time"), "tokens")]
    outputs = [("probabilities", "float32", ("batch", "time", 2), "probabilities")]
    files = {"tokenizer.json": tokenizer.to_str().encode()}
    return _write(
        folder, "mood", version, nodes, weights, inputs, outputs, golden, length, task, files
    )


def write_generator(folder: Path, version: str = "1", seed: int = 0, start: str = "a") -> Manifest:
    """`<folder>/verse/<version>/`: writes on, a character at a time; a full stop ends it."""
    rng = np.random.default_rng(seed)
    size = len(CHARACTERS)
    weights = _gru_weights(rng, H) | {
        "embedding": rng.normal(0, 1, (size, H)).astype(np.float32),
        "head": rng.normal(0, 2, (H, size)).astype(np.float32),
    }
    nodes = [helper.make_node("Gather", ["embedding", "tokens"], ["features"])]
    nodes += [*_gru_nodes(), helper.make_node("MatMul", ["hidden", "head"], ["logits"])]
    golden = {"tokens": rng.integers(0, size, (3, 6))}
    generate = {"characters": CHARACTERS, "start": start, "end": "."}
    task = {"task": "generate", "generate": generate}
    inputs = [("tokens", "int64", ("batch", "time"), "tokens")]
    outputs = [("logits", "float32", ("batch", "time", size), "logits")]
    length = np.array([6, 0, 3])
    return _write(folder, "verse", version, nodes, weights, inputs, outputs, golden, length, task)


def write_tagger(folder: Path, version: str = "1", seed: int = 0) -> Manifest:
    """`<folder>/phase/<version>/`: a label for every row of two columns."""
    rng = np.random.default_rng(seed)
    weights = _gru_weights(rng, len(COLUMNS)) | {
        "head": rng.normal(0, 2, (H, 3)).astype(np.float32),
        "zero": np.zeros((), np.float32),
    }
    nodes = [
        helper.make_node("IsNaN", ["x"], ["is_missing"]),
        helper.make_node("Where", ["is_missing", "zero", "x"], ["features"]),
        *_gru_nodes(),
        helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    columns = [{"name": name, "role": "past"} for name in COLUMNS]
    task = {"task": "tag", "tag": {"columns": columns}, "labels": ["low", "middle", "high"]}
    inputs = [("x", "float32", ("batch", "time", len(COLUMNS)), "x")]
    outputs = [("probabilities", "float32", ("batch", "time", 3), "probabilities")]
    golden = {"x": rng.normal(0, 1, (3, 6, len(COLUMNS))).astype(np.float32)}
    length = np.array([6, 0, 3])
    return _write(folder, "phase", version, nodes, weights, inputs, outputs, golden, length, task)


def write_captioner(folder: Path, version: str = "1", seed: int = 7) -> Manifest:
    """`<folder>/label/<version>/`: writes about a vector of three; a full stop ends it."""
    rng = np.random.default_rng(seed)
    size, num_values = len(CHARACTERS), len(VECTOR_COLUMNS)
    weights = _gru_weights(rng, H) | {
        "embedding": rng.normal(0, 0.3, (size, H)).astype(np.float32),
        "reader": rng.normal(0, 4, (num_values, H)).astype(np.float32),
        "head": rng.normal(0, 4, (H, size)).astype(np.float32),
        "zero": np.zeros((), np.float32),
        "first": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("IsNaN", ["x"], ["is_missing"]),
        helper.make_node("Where", ["is_missing", "zero", "x"], ["filled"]),
        helper.make_node("MatMul", ["filled", "reader"], ["seen"]),
        helper.make_node("Gather", ["embedding", "tokens"], ["read"]),
        helper.make_node("Slice", ["is_missing", "first", "one", "two"], ["is_text"]),
        helper.make_node("Where", ["is_text", "read", "seen"], ["features"]),
    ]
    nodes += [*_gru_nodes(), helper.make_node("MatMul", ["hidden", "head"], ["logits"])]
    x = rng.normal(0, 1, (3, 6, num_values)).astype(np.float32)
    x[:, 1:] = np.nan
    golden = {"tokens": rng.integers(0, size, (3, 6)), "x": x}
    generate = {"characters": CHARACTERS, "start": "a", "end": ".", "columns": VECTOR_COLUMNS}
    task = {"task": "generate", "generate": generate}
    inputs = [
        ("tokens", "int64", ("batch", "time"), "tokens"),
        ("x", "float32", ("batch", "time", num_values), "x"),
    ]
    outputs = [("logits", "float32", ("batch", "time", size), "logits")]
    length = np.array([6, 0, 3])
    return _write(folder, "label", version, nodes, weights, inputs, outputs, golden, length, task)


def small_tokenizer() -> Tokenizer:
    """A BPE of a few words, English and Korean, that knows every other character as unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["[UNK]", "[START]"], show_progress=False
    )
    pieces = ["▁" + word for text in TEXTS for word in text.split()]
    tokenizer.train_from_iterator(pieces * 3, trainer)
    return tokenizer


def _gru_weights(rng: np.random.Generator, num_inputs: int) -> dict[str, np.ndarray]:
    return {
        "W": rng.normal(0, 0.6, (1, 3 * H, num_inputs)).astype(np.float32),
        "R": rng.normal(0, 0.6, (1, 3 * H, H)).astype(np.float32),
        "B": rng.normal(0, 0.1, (1, 6 * H)).astype(np.float32),
        "first_axis": np.array([0], np.int64),
        "direction_axis": np.array([1], np.int64),
        "column_axis": np.array([1], np.int64),
        "none": np.zeros((), np.int64),
    }


def _gru_nodes() -> list[Node]:
    """`features [B, T, F]`, `length`, `state` → `hidden [B, T, H]`, `state_out`."""
    return [
        helper.make_node("Transpose", ["features"], ["time_first"], perm=[1, 0, 2]),
        helper.make_node("Cast", ["length"], ["length32"], to=TensorProto.INT32),
        helper.make_node("Unsqueeze", ["state", "first_axis"], ["h0"]),
        helper.make_node(
            "GRU",
            ["time_first", "W", "R", "B", "length32", "h0"],
            ["Y", "Y_h"],
            hidden_size=H,
            linear_before_reset=1,
        ),
        helper.make_node("Squeeze", ["Y", "direction_axis"], ["hidden_time_first"]),
        helper.make_node("Transpose", ["hidden_time_first"], ["hidden"], perm=[1, 0, 2]),
        helper.make_node("Squeeze", ["Y_h", "first_axis"], ["h"]),
        helper.make_node("Equal", ["length", "none"], ["is_empty"]),
        helper.make_node("Unsqueeze", ["is_empty", "column_axis"], ["is_empty_column"]),
        helper.make_node("Where", ["is_empty_column", "state", "h"], ["state_out"]),
    ]


def _write(
    folder, name, version, nodes, weights, inputs, outputs, golden, length, task, files=None
) -> Manifest:
    inputs = [*inputs, ("length", "int64", ("batch",), "length")]
    state = ("float32", ("batch", H))
    fed = [(n, d, s) for n, d, s, _ in inputs] + [("state", *state)]
    answered = [(n, d, s) for n, d, s, _ in outputs] + [("state_out", *state)]
    graph = helper.make_graph(
        nodes,
        name,
        [_value_info(*spec) for spec in fed],
        [_value_info(*spec) for spec in answered],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    manifest = Manifest.model_validate(
        {
            "format": "carry-bundle/1",
            "name": name,
            "version": version,
            "title": f"A small {name} model",
            "description": "For tests.",
            "graph": {
                "file": "model.onnx",
                "inputs": [{"name": n, "dtype": d, "shape": s, "role": r} for n, d, s, r in inputs],
                "outputs": [
                    {"name": n, "dtype": d, "shape": s, "role": r} for n, d, s, r in outputs
                ],
                "states": [
                    {"input": "state", "output": "state_out", "dtype": state[0], "shape": state[1]}
                ],
                "state_schema": "gru-4/1",
            },
            "golden": {"file": "golden.npz", "tolerance": 1e-4},
            "training": {
                "recipe": {},
                "command": "none",
                "seed": 0,
                "versions": {},
                "data": [{"name": "none", "sha256": "0" * 64, "rows": 1, "licence": "MIT"}],
                "weights_licence": "MIT",
            },
            "quality": [],
            "files": {"model.onnx": "0" * 64, "golden.npz": "0" * 64}
            | dict.fromkeys(files or {}, "0" * 64),
            "manifest_sha256": "0" * 64,
        }
        | task
    )
    graph_bytes = model.SerializeToString()
    ort_session = open_ort_session(graph_bytes, "cpu", 1)
    fetches = [spec[0] for spec in answered]

    def run(feeds):
        return dict(zip(fetches, ort_session.run(fetches, feeds), strict=True))

    layout = StateLayout(manifest.graph.states, schema=manifest.graph.state_schema)
    recorded = record_golden(manifest.graph, layout, golden, length, run)
    return write_bundle(
        folder / name / version,
        manifest,
        {"model.onnx": graph_bytes, "golden.npz": write_arrays(recorded.to_arrays())}
        | (files or {}),
    )


def _value_info(name: str, dtype: str, shape: tuple) -> onnx.ValueInfoProto:
    kind = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}[dtype]
    return helper.make_tensor_value_info(name, kind, list(shape))
