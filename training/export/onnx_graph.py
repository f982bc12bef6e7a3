"""A trained network → one ONNX graph whose batch and time axes stay free.

Recurrences go through custom operators (see `training/cells`), because the exporter would unroll
or freeze the time axis of `nn.GRU` and its like.
"""

import copy
import logging
import warnings

import onnx
import torch
from torch import Tensor

from service.contract.graph import GraphSpec
from service.contract.tensors import InputSpec, OutputSpec
from training.errors import VerificationError
from training.tasks.base import GraphParts, StreamNetwork

OPSET = 18
STATE_INPUT = "state"
STATE_OUTPUT = "state_out"


def export_graph(network: StreamNetwork, graph: GraphSpec) -> bytes:
    """Serialised ONNX with the inputs and outputs that `graph` names, in its order.

    Raises:
        VerificationError: an axis that must stay free was frozen at the example's size.
    """
    frozen = copy.deepcopy(network).cpu().eval()
    frozen.prepare_export()
    specs: list[InputSpec | OutputSpec] = list(graph.inputs)
    state = graph.states[0]
    names = [spec.name for spec in specs] + [state.input]
    shapes = [spec.shape for spec in specs] + [state.shape]
    dtypes = [getattr(torch, spec.dtype) for spec in specs] + [torch.float32]
    # Sizes that no other axis has, so that none is taken for equal to another.
    sizes = {"batch": 3, "time": 5}
    example = tuple(
        torch.ones([sizes[axis] if isinstance(axis, str) else axis for axis in shape], dtype=dtype)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    )
    free = {axis: torch.export.Dim(axis, min=1) for axis in sizes}
    dynamic = tuple(
        {index: free[axis] for index, axis in enumerate(shape) if isinstance(axis, str)}
        for shape in shapes
    )
    with warnings.catch_warnings(), torch.no_grad():
        # Notes on torch's own internals, and on axes that share a name because they are the same.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Positional(frozen),
            example,
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=[spec.name for spec in graph.outputs] + [state.output],
            dynamic_shapes=(dynamic,),
            custom_translation_table=frozen.translations,
            opset_version=OPSET,
        )
    assert program is not None
    model = program.model_proto
    _strip_traces(model)
    _require_free_axes(model, graph)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def graph_spec(network: StreamNetwork, parts: GraphParts, initial: str) -> GraphSpec:
    """The manifest's view of the graph: the task's tensors, `length`, and one packed state."""
    length = {"name": "length", "dtype": "int64", "shape": ["batch"], "role": "length"}
    state = {
        "input": STATE_INPUT,
        "output": STATE_OUTPUT,
        "dtype": "float32",
        "shape": ["batch", network.state_size],
        "initial": initial,
    }
    return GraphSpec.model_validate(
        {
            "file": "model.onnx",
            "inputs": [*(spec.model_dump() for spec in parts.inputs), length],
            "outputs": [spec.model_dump() for spec in parts.outputs],
            "states": [state],
            "state_schema": parts.state_schema,
        }
    )


class _Positional(torch.nn.Module):
    """Gives the exporter one signature, whatever a network calls its inputs."""

    def __init__(self, network: StreamNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.network(*inputs)
        return outputs


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop what the exporter noted about the source: it names files of this machine."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")
    # The runtime that loads the graph derives the shapes of inner values again.
    graph.ClearField("value_info")
    for part in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:  # the body of a Scan
                _strip_graph(attribute.g)


def _require_free_axes(model: onnx.ModelProto, graph: GraphSpec) -> None:
    wanted = {spec.name: spec.shape for spec in [*graph.inputs, *graph.outputs]}
    wanted |= {graph.states[0].input: graph.states[0].shape}
    for value in [*model.graph.input, *model.graph.output]:
        found = tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        if value.name in wanted and found != wanted[value.name]:
            raise VerificationError(
                f"{value.name!r} was exported as {list(found)}, expected"
                f" {list(wanted[value.name])}: the network uses a size as a constant"
            )
