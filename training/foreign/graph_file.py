"""An ONNX file, with the files of weights beside it, read into one self-contained graph.

Rule 1: nothing outside the graph's folder is read. Where the graph is a link (as download caches
        make them), the folder of the file that it leads to counts too.
Rule 2: sizes are checked before anything is read.
"""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import onnx

from training.foreign.choices import ImportGraphError

MAX_GRAPH_BYTES: Final = 2**31 - 2**20
"""Protobuf cannot serialise 2 GiB; a little less leaves room for the rest of the graph."""

_PACKED_BITS: Final = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_OTHER_FILES: Final = (
    (b"version https://git-lfs", "it is a Git LFS pointer: fetch the file with 'git lfs pull'"),
    (b"PK\x03\x04", "it is a zip archive (torch.save, Keras): export it with torch.onnx.export"),
    (b"\x89HDF", "it is an HDF5 file (Keras): convert it with tf2onnx"),
    (b"<!DOCTYPE", "it is a web page: download the file itself"),
    (b"<html", "it is a web page: download the file itself"),
)


def require_graph_file(path: Path) -> None:
    """What can be said of a path without reading the graph.

    Raises:
        ImportGraphError: it is missing, not a regular file, empty, or too large.
    """
    try:
        if path.is_dir():
            graphs = sorted(each.name for each in path.glob("*.onnx"))[:5]
            found = f"; it holds {', '.join(graphs)}: name one of them" if graphs else ""
            raise ImportGraphError(f"{path} is a folder: expected an ONNX file{found}")
        if not path.exists():
            raise ImportGraphError(f"{path} does not exist: expected an ONNX file")
        if not path.is_file():
            raise ImportGraphError(f"{path} is not a regular file: expected an ONNX file")
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ImportGraphError(f"{path} cannot be read: {error.strerror}") from None
    if num_bytes == 0:
        raise ImportGraphError(f"{path} is empty: expected an ONNX file; export or copy it again")
    for start, what in _OTHER_FILES:
        if head.startswith(start):
            raise ImportGraphError(f"{path} is not an ONNX file: {what}")
    if head[4:8] == b"ORTM":
        raise ImportGraphError(f"{path} is in ORT format: expected the .onnx file it was made from")
    _require_size(num_bytes, path.name)


def read_graph(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """The bytes of a self-contained graph, and the same graph parsed.

    A graph without external data keeps its own bytes.

    Raises:
        ImportGraphError: not an ONNX graph, or weights that are missing, short or elsewhere.
    """
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf has an error class for each of its implementations
        raise ImportGraphError(
            f"{path.name} is not an ONNX graph, or was cut short ({len(data):,} bytes cannot be"
            " parsed): export or copy it again"
        ) from None
    if not model.graph.output or not model.graph.node:
        raise ImportGraphError(
            f"{path.name} is not an ONNX graph: it has {len(model.graph.node)} nodes and"
            f" {len(model.graph.output)} outputs; export it again"
        )
    if _inline_external_data(model, path, len(data)):
        data = model.SerializeToString(deterministic=True)
    return data, model


def _inline_external_data(model: onnx.ModelProto, path: Path, num_bytes: int) -> bool:
    external = [tensor for tensor in _tensors(model) if _is_external(tensor)]
    for tensor in external:
        fields = {entry.key: entry.value for entry in tensor.external_data}
        file = _data_file(path, fields.get("location", ""), tensor.name)
        start = _whole_number(fields.get("offset", "0"), "offset", tensor.name)
        size = _num_bytes(tensor)
        given = _whole_number(fields.get("length", str(size)), "length", tensor.name)
        if given != size:
            raise ImportGraphError(
                f"weights {tensor.name!r}: expected {size:,} bytes for {list(tensor.dims)}, the"
                f" graph says {given:,} in {file.name}: export it again"
            )
        found = file.stat().st_size
        if start + size > found:
            raise ImportGraphError(
                f"{file.name} is too short: weights {tensor.name!r} end at byte {start + size:,},"
                f" the file has {found:,}; copy or export both files again"
            )
        num_bytes += size
        _require_size(num_bytes, path.name)
        with file.open("rb") as opened:
            opened.seek(start)
            tensor.raw_data = opened.read(size)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return bool(external)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or bool(tensor.external_data)


def _data_file(graph: Path, location: str, tensor: str) -> Path:
    """The file of weights that a graph names, inside the graph's folder."""
    where, shown = PurePosixPath(location), location[:100]
    remedy = "put both files into one folder, or export with external_data=False"
    if not location or "\0" in location or where.is_absolute() or ".." in where.parts:
        raise ImportGraphError(
            f"weights {tensor[:100]!r} lie in {shown!r}: expected a file beside {graph.name};"
            f" {remedy}"
        )
    path = graph.parent / location
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise ImportGraphError(
            f"{graph.name} keeps its weights in {shown!r}, which is not beside it: {remedy}"
        ) from None
    folders = (graph.parent.resolve(), graph.resolve().parent)
    if not any(real.is_relative_to(folder) for folder in folders):
        raise ImportGraphError(
            f"{shown!r} is a link that leads outside the folder of {graph.name}: expected the"
            " weights in that folder; copy them there with cp -L"
        )
    if not real.is_file():
        raise ImportGraphError(f"{shown!r} beside {graph.name} is not a regular file: {remedy}")
    return real


def _whole_number(text: str, what: str, tensor: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ImportGraphError(
            f"weights {tensor!r}: {what} {text[:40]!r}: expected a number of bytes; export it again"
        )
    return int(text)


def _num_bytes(tensor: onnx.TensorProto) -> int:
    size: int = math.prod(tensor.dims)
    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    if name in _PACKED_BITS:
        return -(-size * _PACKED_BITS[name] // 8)
    dtype: Any = None
    if name not in ("UNDEFINED", "STRING"):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if dtype is None or any(axis < 0 for axis in tensor.dims):
        raise ImportGraphError(
            f"weights {tensor.name!r} are {name} {list(tensor.dims)}, which no file of weights can"
            " hold: export it again"
        )
    return size * int(dtype.itemsize)


def _require_size(num_bytes: int, name: str) -> None:
    if num_bytes > MAX_GRAPH_BYTES:
        raise ImportGraphError(
            f"{name} has {num_bytes:,} bytes with its weights: expected at most"
            f" {MAX_GRAPH_BYTES:,}, which is what one ONNX file can hold; use a smaller or a"
            " quantised model"
        )


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers, attributes, and those of subgraphs and functions."""
    parts: list[Any] = [model.graph, *model.functions]
    for info in model.training_info:
        parts += [info.algorithm, info.initialization]
    while parts:
        part = parts.pop()
        if isinstance(part, onnx.GraphProto):
            yield from part.initializer
            for sparse in part.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        attributes = [each for node in part.node for each in node.attribute]
        attributes += getattr(part, "attribute_proto", ())
        for attribute in attributes:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            if attribute.HasField("g"):
                parts.append(attribute.g)
            parts += attribute.graphs
