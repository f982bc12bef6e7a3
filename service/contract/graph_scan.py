"""Scans an ONNX file for references to external data, without the onnx package.

ONNX Runtime would open such a reference, at any path of the server. The scan follows the protobuf
wire format along the only fields that lead to a tensor, and refuses a file that it cannot read.

Field numbers are those of onnx.proto3 (ModelProto, GraphProto, NodeProto, AttributeProto,
TensorProto, SparseTensorProto, FunctionProto, TrainingInfoProto).
"""

from collections.abc import Iterator
from typing import Final

from service.contract.errors import BundleError

_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_MAX_DEPTH: Final = 64

# message → {field number: nested message}
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
    """Raise BundleError if any tensor of the graph is stored outside the file."""
    _scan(memoryview(model), "model", where, 0)


def _scan(message: memoryview, kind: str, where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise BundleError(
            f"{where}: expected sub-graphs nested at most {_MAX_DEPTH} deep, found more"
        )
    for number, value in _fields(message, where):
        if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
            raise BundleError(
                f"{where}: expected all values inside the graph, found a tensor with its values"
                " outside the file (external_data): save the model without external data"
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
    return BundleError(f"{where}: not a readable ONNX file (invalid protobuf): export it again")
