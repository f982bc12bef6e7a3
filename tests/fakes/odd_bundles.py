"""Bundles that are wrong in one way each, sealed so that only a deeper look can tell."""

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from service.contract.bundle import read_bundle, write_bundle
from service.contract.manifest import Manifest
from tests.fakes.bundles import write_classifier

ENDLESS = 2**62


def reseal(path: Path, change_manifest=None, **files: bytes) -> None:
    """Replace files of a bundle, and fields of its manifest, and hash all of it anew."""
    bundle = read_bundle(path)
    fields = bundle.manifest.model_dump(mode="json")
    if change_manifest is not None:
        change_manifest(fields)
    write_bundle(path, Manifest.model_validate(fields), dict(bundle.files) | files)


def write_looping_classifier(
    folder: Path, num_turns: int, version: str = "1", *, after_steps: int = 0
) -> Path:
    """`<folder>/mood/<version>/`, whose graph turns as often in a loop before it answers.

    With `after_steps` only where a row has more steps than that.
    """
    write_classifier(folder, version)
    path = folder / "mood" / version
    model = onnx.load_model_from_string(read_bundle(path).graph)
    graph, answer = model.graph, "probabilities"
    for node in graph.node:
        names = ["without_loop" if name == answer else name for name in node.output]
        node.output[:] = names
    scalar, flag = (
        lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, []),
        lambda name: helper.make_tensor_value_info(name, TensorProto.BOOL, []),
    )
    task = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on_in"], ["goes_on_out"]),
            helper.make_node("Mul", ["sum_in", "sum_in"], ["sum_out"]),
        ],
        "turns",
        [task, flag("goes_on_in"), scalar("sum_in")],
        [flag("goes_on_out"), scalar("sum_out")],
    )
    graph.initializer.extend(
        [
            helper.make_tensor("num_turns", TensorProto.INT64, [], [num_turns]),
            helper.make_tensor("few_steps", TensorProto.INT64, [], [after_steps]),
            helper.make_tensor("no_turn", TensorProto.INT64, [], [0]),
            helper.make_tensor("goes_on", TensorProto.BOOL, [], [True]),
            helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0.0]),
        ]
    )
    graph.node.extend(
        [
            # From an input, so that nothing of it is worked out as the graph is opened.
            helper.make_node("ReduceSum", ["without_loop"], ["all"], keepdims=0),
            helper.make_node("Mul", ["all", "nothing"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("ReduceMax", ["length"], ["longest"], keepdims=0),
            helper.make_node("Cast", ["longest"], ["num_steps"], to=TensorProto.INT64),
            helper.make_node("Greater", ["num_steps", "few_steps"], ["has_many"]),
            helper.make_node("Where", ["has_many", "num_turns", "no_turn"], ["turns"]),
            helper.make_node("Loop", ["turns", "goes_on", "zero"], ["looped"], body=body),
            helper.make_node("Add", ["without_loop", "looped"], [answer]),
        ]
    )
    reseal(path, **{"model.onnx": model.SerializeToString()})
    return path


def with_tokenizer(path: Path, **parts: object) -> None:
    """Change parts of a bundle's tokenizer."""
    tokenizer = json.loads(read_bundle(path).files["tokenizer.json"])
    reseal(path, **{"tokenizer.json": json.dumps(tokenizer | parts).encode()})
