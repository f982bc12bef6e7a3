"""A look into an ONNX file without the onnx package: does it point at data outside itself?

ONNX Runtime would follow such a pointer to any path of the server. The scan walks the protobuf
wire format along the only fields through which a tensor can be reached, and refuses what it
cannot read: an unreadable file is not to be trusted.

Field numbers are those of onnx.proto3 (ModelProto, GraphProto, NodeProto, AttributeProto,
TensorProto, SparseTensorProto, FunctionProto, TrainingInfoProto).
"""

from collections.abc import Iterator
from typing import Final

from service.contract.errors import BundleError

_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_MAX_DEPTH: Final = 64

# message → {field number: message inside}
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}


def refuse_external_data(model: bytes, where: str) -> None:
    """Raise BundleError if any tensor of the graph lies outside the file."""
    _scan(memoryview(model), "model", where, 0)


def _scan(message: memoryview, kind: str, where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise BundleError(f"{where}: sub-graphs nested deeper than {_MAX_DEPTH}: refused")
    for number, value in _fields(message, where):
        if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
            raise BundleError(
                f"{where}: a tensor keeps its values outside the file (external_data); expected"
                " every value inside the graph: save the model without external data"
            )
        child = _CHILDREN[kind].get(number)
        if child and isinstance(value, memoryview):
            _scan(value, child, where, depth + 1)


def _fields(message: memoryview, where: str) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers with their varint or their bytes; fixed-width values read as 0."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position, where)
        wire_type = key & 7
        value: int | memoryview = 0
        if wire_type == 0:
            value, position = _varint(message, position, where)
        elif wire_type == 2:
            size, position = _varint(message, position, where)
            value = message[position : position + size]
            position += size
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4
        else:
            raise _unreadable(where)
        if position > len(message):
            raise _unreadable(where)
        yield key >> 3, value


def _varint(message: memoryview, position: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _unreadable(where)


def _unreadable(where: str) -> BundleError:
    return BundleError(f"{where}: not a readable ONNX file (broken protobuf): export it again")
