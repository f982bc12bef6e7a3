"""Tensors in JSON, as in the Open Inference Protocol: `{"shape", "datatype", "data"}`, or as lists.

What a model reads is checked here, wherever it came from: names, kinds of numbers, and sizes.
"""

from collections.abc import Mapping
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np

from service.api.codec.rows import pack_floats
from service.contract.calls import Arrays, ObservationLayout
from service.contract.tensors import InputSpec
from service.errors import InvalidInputError

DATATYPES: Final[Mapping[str, str]] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
DATATYPE_OF: Final[Mapping[str, str]] = {dtype: name for name, dtype in DATATYPES.items()}

_NAMES_OF_KINDS: Final = {
    "b": "booleans", "i": "integers", "u": "integers", "f": "fractions", "U": "strings",
}  # fmt: skip
_DISGUISED: Final[Mapping[type, str]] = {bool: "booleans", str: "strings"}
_KINDS: Final = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}


def read_tensors(
    layout: ObservationLayout, given: Mapping[str, Any], where: str
) -> tuple[np.ndarray, bytes]:
    """Named tensors of a body → packed observations `[T, n]` and packed constants."""
    specs = {spec.name: spec for spec in (*layout.tensors, *layout.constants)}
    require_names(layout, given, where)
    arrays = {name: _read(specs[name], value, f"{where}.{name}") for name, value in given.items()}
    return pack_observations(layout, arrays, where)


def require_names(layout: ObservationLayout, given: Mapping[str, Any], where: str) -> None:
    """Raise InvalidInputError unless all that is needed is there, and nothing that is unknown."""
    needed = [spec.name for spec in layout.tensors]
    optional = [spec.name for spec in layout.constants]
    missing = sorted(set(needed) - set(given))
    unknown = sorted(set(given) - set(needed) - set(optional))
    if missing or unknown:
        raise InvalidInputError(
            f"{where}: tensors missing {missing}, unknown {unknown}: expected {needed}"
            + (f", and optionally {optional}" if optional else "")
        )


def pack_observations(
    layout: ObservationLayout, arrays: Mapping[str, np.ndarray], where: str
) -> tuple[np.ndarray, bytes]:
    """Arrays of the model's own types, each of one observation or `[T, …]` of several."""
    observed: Arrays = {}
    for spec in layout.tensors:
        values, place = arrays[spec.name], f"{where}.{spec.name}"
        if values.shape == spec.row_shape:
            values = values[None]
        if values.shape[1:] != spec.row_shape or not len(values):
            raise InvalidInputError(
                f"{place} has shape {list(values.shape)}: expected {list(spec.row_shape)}, or"
                f" {['n', *spec.row_shape]} for n observations".replace("'n'", "n")
            )
        observed[spec.name] = values
    counts = {name: len(values) for name, values in observed.items()}
    if len(set(counts.values())) > 1:
        raise InvalidInputError(f"{where}: expected as many observations of each, got {counts}")
    constants = {
        spec.name: _constant(spec, arrays[spec.name], f"{where}.{spec.name}")
        for spec in layout.constants
        if spec.name in arrays
    }
    return layout.pack(observed), layout.pack_constants(constants)


_FLOAT = {float}
_MOST_PACKED: Final = 1024


def array_of(data: Any, dtype: str, where: str) -> np.ndarray:  # noqa: ANN401 -- JSON
    """Lists of numbers → an array of `dtype`, which must be able to hold them.

    Raises:
        InvalidInputError: ragged, of another kind, or beyond the type's range.
    """
    try:
        is_short = type(data) is list and len(data) <= _MOST_PACKED
        if is_short and dtype == "float32" and set(map(type, data)) == _FLOAT:
            return pack_floats(data)
        with np.errstate(over="raise", invalid="raise"):
            plain = np.array(data)
            is_empty = plain.size == 0
            _refuse_disguised(data, plain, dtype, where)
            if plain.dtype.kind == "O" and np.dtype(dtype).kind == "f":
                return np.array(data, dtype)  # None is a missing value
            if not is_empty and plain.dtype.kind not in _KINDS[np.dtype(dtype).kind]:
                found = _NAMES_OF_KINDS.get(plain.dtype.kind, "other values")
                raise InvalidInputError(f"{where} holds {found}: expected {DATATYPE_OF[dtype]}")
            return np.array(data, dtype)
    except (OverflowError, FloatingPointError):
        raise InvalidInputError(
            f"{where} holds a number that {DATATYPE_OF[dtype]} has no room for: check its unit"
        ) from None
    except (ValueError, TypeError, RecursionError):
        raise InvalidInputError(
            f"{where} is not a tensor: expected a flat list, or nested lists of one length each,"
            f" of {DATATYPE_OF[dtype]}"
        ) from None


def _refuse_disguised(data: Any, plain: np.ndarray, dtype: str, where: str) -> None:  # noqa: ANN401
    """Refuse booleans among numbers, and texts beside None: NumPy makes numbers of them."""
    if plain.dtype.kind not in "fiuO" or plain.ndim == 0 or isinstance(data, np.ndarray):
        return
    leaves = data
    for _ in range(plain.ndim - 1):
        leaves = chain.from_iterable(leaves)
    for kind in _DISGUISED.keys() & set(map(type, leaves)):
        raise InvalidInputError(f"{where} holds {_DISGUISED[kind]}: expected {DATATYPE_OF[dtype]}")


def tensor_json(values: np.ndarray) -> dict[str, Any]:
    """An array as a body carries it."""
    data = values.astype(np.float32) if values.dtype == np.float16 else values
    return {
        "shape": list(values.shape),
        "datatype": DATATYPE_OF[values.dtype.name],
        "data": np.ascontiguousarray(data).reshape(-1),
    }


def _read(spec: InputSpec, value: Any, where: str) -> np.ndarray:  # noqa: ANN401 -- JSON
    if not isinstance(value, Mapping):
        return array_of(value, spec.dtype, where)
    if set(value) != {"shape", "datatype", "data"}:
        raise InvalidInputError(
            f'{where}: expected "shape", "datatype" and "data", or lists; got {sorted(value)[:9]}'
        )
    if value["datatype"] != DATATYPE_OF[spec.dtype]:
        raise InvalidInputError(
            f"{where} is {str(value['datatype'])[:20]!r}: expected {DATATYPE_OF[spec.dtype]}"
        )
    return shaped(array_of(value["data"], spec.dtype, where), value["shape"], where)


def shaped(values: np.ndarray, shape: Any, where: str) -> np.ndarray:  # noqa: ANN401 -- JSON
    """`values`, flat or nested, in `shape`.

    Raises:
        InvalidInputError: no shape, or one of another size.
    """
    if not isinstance(shape, list) or len(shape) > 16:
        raise InvalidInputError(
            f"{where} has the shape {str(shape)[:60]}: expected a list of at most 16 sizes"
        )
    for number in shape:
        if type(number) is not int or not 0 <= number < 2**31:
            raise InvalidInputError(
                f"{where} has the size {str(number)[:40]} in its shape {str(shape)[:60]}: expected"
                f" integers from 0 to {2**31 - 1}"
            )
    size = prod(shape)
    if values.size != size:
        raise InvalidInputError(
            f"{where} has {values.size} values: expected {size}, as its shape is {shape}"
        )
    if values.ndim != 1 and list(values.shape) != shape:
        raise InvalidInputError(
            f"{where} has data nested as {list(values.shape)}: expected {shape}, or a flat list"
        )
    return values.reshape(shape)


def _constant(spec: InputSpec, values: np.ndarray, where: str) -> np.ndarray:
    if values.size != spec.constant.size:
        raise InvalidInputError(
            f"{where} has shape {list(values.shape)}: expected {list(spec.row_shape)}"
        )
    return values.reshape(spec.row_shape)
