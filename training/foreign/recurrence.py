"""What the nodes of a graph say of its states, whatever its tensors are called.

A recurrent node (RNN, GRU, LSTM, Scan) takes the begin of each state and gives its end. The
begin is followed back to the graph's inputs and the end on to its outputs, through operators that
only move values. Where both arrive, they are one state.

Absent on purpose: cells that an exporter took apart into MatMul and Tanh, and Loop, which refines
observations as often as it carries states. Their states are known by name alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import onnx

_MOVING: Final = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split",
     "Squeeze", "Transpose", "Unsqueeze"}
)  # fmt: skip
_ALL_INPUTS_MOVE: Final = frozenset({"Concat"})
_STATES_OF: Final = {
    "RNN": (("h", 5, 1),),
    "GRU": (("h", 5, 1),),
    "LSTM": (("h", 5, 1), ("c", 6, 2)),
}
"""Operator → what a state is called, the input where it begins, the output where it ends."""
_LENGTHS: Final = 4
"""The input `sequence_lens` of all three."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """One state of one recurrent node. `begins` are inputs of the graph, `ends` outputs.

    `is_zero`: the node starts it from zeros, or from weights, in every call.
    """

    node: str
    part: str
    begins: tuple[str, ...]
    ends: tuple[str, ...]
    is_zero: bool


@dataclass(frozen=True, slots=True)
class Recurrence:
    """All that the nodes say."""

    states: tuple[NodeState, ...] = ()
    lengths: tuple[str, ...] = ()
    """Inputs that are the number of steps of each row."""
    backward: tuple[str, ...] = ()
    """Nodes that read steps from the last to the first."""
    has_float16: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Recurrence":
        states = tuple(
            NodeState(each["node"], each["part"], tuple(each["begins"]), tuple(each["ends"]),
                      each["is_zero"])
            for each in fields["states"]
        )  # fmt: skip
        return cls(
            states, tuple(fields["lengths"]), tuple(fields["backward"]), fields["has_float16"]
        )

    def certain_pairs(self) -> dict[str, str]:
        """Inputs of the graph with the one output that each becomes."""
        ends: dict[str, set[str]] = {}
        for state in self.states:
            for begin in state.begins:
                ends.setdefault(begin, set()).update(state.ends)
        one = {begin: next(iter(found)) for begin, found in ends.items() if len(found) == 1}
        taken = list(one.values())
        return {begin: end for begin, end in one.items() if taken.count(end) == 1}


def recurrence_of(model: onnx.ModelProto) -> Recurrence:
    """Read the nodes of the main graph; those inside of subgraphs are their own affair."""
    graph = model.graph
    flow = _Flow(graph)
    states: list[NodeState] = []
    lengths: set[str] = set()
    backward = []
    for node in graph.node:
        shown = f"{node.op_type} {node.name!r}" if node.name else node.op_type
        for part, begin, end in _parts(node):
            states.append(flow.state(shown, part, begin, end))
        if node.op_type in _STATES_OF:
            lengths |= flow.sources(_at(node.input, _LENGTHS)) or set()
            if _is_backward(node):
                backward.append(shown)
    return Recurrence(tuple(states), tuple(sorted(lengths)), tuple(backward), _has_float16(graph))


def _parts(node: onnx.NodeProto) -> Iterable[tuple[str, str, str]]:
    """What each state of a node is called, and the names of its begin and end ('' for none)."""
    if node.op_type in _STATES_OF:
        for part, begin, end in _STATES_OF[node.op_type]:
            yield part, _at(node.input, begin), _at(node.output, end)
    elif node.op_type == "Scan":
        num_scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 1)
        begins = node.input[: max(0, len(node.input) - num_scanned)]
        for index, (begin, end) in enumerate(zip(begins, node.output, strict=False)):
            yield f"state {index}", begin, end


def _at(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else ""


def _is_backward(node: onnx.NodeProto) -> bool:
    return any(
        a.name == "direction" and a.s in (b"reverse", b"bidirectional") for a in node.attribute
    )


def _has_float16(graph: onnx.GraphProto) -> bool:
    half = onnx.TensorProto.FLOAT16
    return any(value.type.tensor_type.elem_type == half for value in graph.input) or any(
        tensor.data_type == half for tensor in graph.initializer
    )


class _Flow:
    """Who makes and who reads each value of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._weights = {tensor.name for tensor in graph.initializer}
        self._weights |= {tensor.values.name for tensor in graph.sparse_initializer}
        self._inputs = {value.name for value in graph.input} - self._weights
        self._outputs = {value.name for value in graph.output}
        self._maker = {name: node for node in graph.node for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            moved = node.input if node.op_type in _ALL_INPUTS_MOVE else node.input[:1]
            if node.op_type in _MOVING:
                for name in moved:
                    self._readers.setdefault(name, []).append(node)

    def state(self, node: str, part: str, begin: str, end: str) -> NodeState:
        sources = self.sources(begin)
        return NodeState(
            node,
            part,
            tuple(sorted(sources or ())),
            tuple(sorted(self._sinks(end))),
            is_zero=sources is not None and not sources,
        )

    def sources(self, name: str) -> set[str] | None:
        """Inputs of the graph that are moved to `name`; None where it is computed."""
        found: set[str] = set()
        seen: set[str] = set()
        names = [name] if name else []
        while names:
            each = names.pop()
            if each in seen or each in self._weights:
                continue
            seen.add(each)
            maker = self._maker.get(each)
            if each in self._inputs:
                found.add(each)
            elif maker is None or maker.op_type in ("Constant", "ConstantOfShape"):
                continue
            elif maker.op_type in _MOVING:
                moved = maker.input if maker.op_type in _ALL_INPUTS_MOVE else maker.input[:1]
                names += moved
            else:
                return None
        return found

    def _sinks(self, name: str) -> set[str]:
        found: set[str] = set()
        seen: set[str] = set()
        names = [name] if name else []
        while names:
            each = names.pop()
            if each in seen:
                continue
            seen.add(each)
            if each in self._outputs:
                found.add(each)
            for reader in self._readers.get(each, ()):
                names += [output for output in reader.output if output]
        return found
