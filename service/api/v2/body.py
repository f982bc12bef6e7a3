"""Bodies of the Open Inference Protocol: JSON, then the binary tensors in the order of `inputs`.

Rule 1: sizes are proven before anything is read by them: what the JSON says of a tensor must be
        what is there, to the byte, and nothing may be left over.
Rule 2: nothing here knows the web framework: big bodies are read in a process of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from service.api.codec.tensors import array_of, shaped
from service.api.v2.signature import Signature, Tensor
from service.errors import InvalidInputError, MalformedError

HEADER: Final = "Inference-Header-Content-Length"
_MAX_OUTPUTS = 64
_SEQUENCE_PARAMETERS: Final = frozenset(
    {"sequence_id", "sequence_start", "sequence_end", "sequence_step"}
)
_PARAMETERS_ELSEWHERE: Final = {
    "sequence_id": (
        '; a sequence is named by the parameters of the request: "parameters": {"sequence_id": 5}'
    ),
    "sequence_control_input": (
        "; a sequence is begun and ended by the parameters of the request, true or false:"
        ' "parameters": {"sequence_id": 5, "sequence_start": true, "sequence_end": false}'
    ),
}
"""Inputs by which OpenVINO Model Server is told of sequences."""


@dataclass(slots=True)
class InferRequest:
    """`outputs` are the wanted ones, each with whether it is to be binary; none: all of them."""

    id: str | None
    parameters: dict[str, Any]
    arrays: dict[str, np.ndarray]
    outputs: dict[str, bool] = field(default_factory=dict)

    @property
    def is_binary(self) -> bool:
        """Whether outputs are to be binary of which nothing is said."""
        return self.parameters.get("binary_data_output") is True


class ParsedBody(NamedTuple):
    """The JSON of a request, its parameters, and the bytes after the JSON."""

    json: dict[str, Any]
    parameters: dict[str, Any]
    binary: memoryview


def read_parameters(data: bytes, json_bytes: int | None) -> dict[str, Any]:
    """The parameters of a request: they may say which model reads its tensors.

    Raises:
        MalformedError: the body is not JSON, or not a request.
    """
    return parse(data, json_bytes).parameters


def read_id(data: bytes, json_bytes: int | None) -> str | None:
    """The id of a request that may be wrong in everything else; None where it has none."""
    try:
        body = orjson.loads(data[:json_bytes])
    except orjson.JSONDecodeError:
        return None
    found = body.get("id") if isinstance(body, dict) else None
    return found if isinstance(found, str) else None


def read_infer(signature: Signature, data: bytes, json_bytes: int | None) -> InferRequest:
    """A request's body.

    Raises:
        CarryError: it is not JSON, or its tensors are not what it says or the model reads.
    """
    return infer_request(signature, parse(data, json_bytes))


def infer_request(signature: Signature, parsed: ParsedBody) -> InferRequest:
    """As `read_infer`, of a body that is parsed already."""
    body, parameters, binary = parsed
    arrays = _read_inputs(signature, body["inputs"], binary)
    request_id = body.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise MalformedError(f"id is {str(request_id)[:40]!r}: expected a string")
    request = InferRequest(request_id, parameters, arrays)
    request.outputs = _wanted(signature, body.get("outputs"), request.is_binary)
    return request


def write_infer(
    head: dict[str, Any],
    signature: Signature,
    arrays: Mapping[str, np.ndarray],
    asked: InferRequest,
) -> tuple[bytes, int | None]:
    """An answer's body, and the bytes of its JSON where binary tensors follow.

    Raises:
        InvalidInputError: an output is wanted that this model, another than has read the request,
            does not have.
    """
    datatypes = signature.datatypes
    wanted = asked.outputs or dict.fromkeys(datatypes, asked.is_binary)
    outputs: list[dict[str, Any]] = []
    binaries: list[bytes] = []
    for name, is_binary in wanted.items():
        if name not in arrays:
            raise _unexpected_output(name, list(datatypes))
        values = np.ascontiguousarray(arrays[name])
        tensor: dict[str, Any] = {
            "name": name, "datatype": datatypes[name], "shape": list(values.shape)
        }  # fmt: skip
        if is_binary:
            binaries.append(values.tobytes())
            tensor["parameters"] = {"binary_data_size": len(binaries[-1])}
        else:
            flat = values.reshape(-1)
            tensor["data"] = flat.astype(np.float32) if flat.dtype == np.float16 else flat
        outputs.append(tensor)
    text = orjson.dumps(head | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([text, *binaries]), len(text) if binaries else None


def parse(data: bytes, json_bytes: int | None) -> ParsedBody:
    """Parse the JSON of a request's body.

    Raises:
        MalformedError: the body is not JSON, or not a request.
    """
    end = len(data) if json_bytes is None else json_bytes
    if not 0 <= end <= len(data):
        raise MalformedError(f"{HEADER} is {end}, the body has {len(data)} bytes")
    try:
        body = orjson.loads(data[:end])
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"the body is not valid JSON ({error}): expected an object") from None
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list):
        raise MalformedError('the body has no list "inputs": expected {"inputs": [{"name": …}]}')
    if not _SEQUENCE_PARAMETERS.isdisjoint(body):
        astray = sorted(_SEQUENCE_PARAMETERS & set(body))
        raise MalformedError(
            f'the body has {astray} beside "inputs": expected them in "parameters", such as'
            f' {{"parameters": {{"{astray[0]}": …}}}}'
        )
    parameters = _parameters(body, "the request")
    for name in parameters:
        if name.startswith("triton_"):
            raise MalformedError("parameters that begin with triton_ are reserved")
    return ParsedBody(body, parameters, memoryview(data)[end:])


def _read_inputs(
    signature: Signature, listed: list[Any], binary: memoryview
) -> dict[str, np.ndarray]:
    known, arrays = signature.all_inputs, dict[str, np.ndarray]()
    for entry in listed:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise MalformedError('an input has no "name"')
        name = entry["name"]
        tensor = known.get(name)
        if tensor is None or name in arrays:
            raise _unexpected_input(name, sorted(known), is_known=tensor is not None)
        where = f"input {name!r}"
        size = _parameters(entry, where).get("binary_data_size")
        if size is None:
            arrays[name] = _fitting(tensor, entry, _json_values(tensor, entry, where), where)
            continue
        if type(size) is not int or not 0 <= size <= len(binary) or "data" in entry:
            raise MalformedError(
                f"{where}: binary_data_size is {str(size)[:40]}, {len(binary)} bytes are left"
                ": expected a size that is there, and no data"
            )
        values = _binary_values(tensor, entry, binary[:size])
        arrays[name] = _fitting(tensor, entry, values, where)
        binary = binary[size:]
    if len(binary):
        raise MalformedError(f"{len(binary)} bytes follow the last tensor: expected none")
    if missing := [tensor.name for tensor in signature.inputs if tensor.name not in arrays]:
        raise InvalidInputError(f"expected inputs {missing}, got {sorted(arrays)}")
    return arrays


def _json_values(tensor: Tensor, entry: dict[str, Any], where: str) -> np.ndarray:
    _require_datatype(tensor, entry)
    data = entry.get("data")
    if not isinstance(data, list):
        raise MalformedError(f'{where} has no list "data"')
    if tensor.dtype != "bytes":
        return array_of(data, tensor.dtype, where)
    flat = list(_flat(data, 16))
    if not all(isinstance(each, str) for each in flat):
        raise InvalidInputError(f"{where}: expected strings")
    return np.array([each.encode() for each in flat], object)


def _binary_values(tensor: Tensor, entry: dict[str, Any], data: memoryview) -> np.ndarray:
    is_brain = entry.get("datatype") == "BF16" and tensor.dtype == "float32"
    if is_brain and not len(data) % 2:
        wide: np.ndarray = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32)
    _require_datatype(tensor, entry)
    if tensor.dtype == "bytes":
        return np.array(_split_bytes(tensor.name, data), object)
    dtype = tensor.binary_dtype
    if len(data) % dtype.itemsize:
        raise MalformedError(f"input {tensor.name!r}: {len(data)} bytes are no {tensor.datatype}")
    if tensor.dtype == "bool":
        return np.frombuffer(data, np.uint8).astype(bool)
    return np.frombuffer(data, dtype)


def _fitting(tensor: Tensor, entry: dict[str, Any], values: np.ndarray, where: str) -> np.ndarray:
    """Values in the shape that is said, which must be one of the model's."""
    values = shaped(values, entry.get("shape"), where)
    if not tensor.takes(values.shape):
        raise InvalidInputError(
            f"{where} has shape {list(values.shape)}: expected {tensor.shape}, -1 being any"
        )
    return values


def _require_datatype(tensor: Tensor, entry: dict[str, Any]) -> None:
    if entry.get("datatype") != tensor.datatype:
        raise InvalidInputError(
            f"input {tensor.name!r} is {str(entry.get('datatype'))[:20]!r}: expected"
            f" {tensor.datatype}"
        )


def _split_bytes(name: str, data: memoryview) -> list[bytes]:
    """Each element is its length, four bytes, and its bytes."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 > len(data) or at + 4 + size > len(data):
            raise MalformedError(f"input {name!r}: an element of BYTES is longer than what is left")
        found.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def _flat(data: list[Any], depth: int) -> Any:  # noqa: ANN401 -- a generator of leaves
    for each in data:
        if isinstance(each, list) and depth:
            yield from _flat(each, depth - 1)
        else:
            yield each


def _wanted(signature: Signature, listed: Any, is_binary: bool) -> dict[str, bool]:  # noqa: ANN401
    if listed is None or listed == []:
        return {}
    names = list(signature.datatypes)
    if not isinstance(listed, list) or len(listed) > _MAX_OUTPUTS:
        raise MalformedError('"outputs" is not a list, or is too long')
    wanted = {}
    for entry in listed:
        name = entry.get("name") if isinstance(entry, dict) else None
        if name not in names:
            raise _unexpected_output(name, names)
        parameters = _parameters(entry, f"output {name!r}")
        if "classification" in parameters:
            raise InvalidInputError("the classification extension is not supported")
        wanted[name] = parameters.get("binary_data", is_binary) is True
    return wanted


def _unexpected_input(name: str, known: list[str], *, is_known: bool) -> InvalidInputError:
    if is_known:
        return InvalidInputError(f"input {name!r} is there twice: expected each once of {known}")
    hint = _PARAMETERS_ELSEWHERE.get(name, "")
    return InvalidInputError(
        f"unexpected inference input {name[:80]!r}: expected each once of {known}{hint}"
    )


def _unexpected_output(name: object, names: list[str]) -> InvalidInputError:
    return InvalidInputError(f"unexpected output {str(name)[:80]!r}: expected some of {names}")


def _parameters(entry: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise MalformedError(f'"parameters" of {where} is not an object')
    return parameters
