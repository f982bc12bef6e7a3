"""How a loaded model looks in the Open Inference Protocol: tensors in the manifest's shapes.

Rows of a graph are the axis that the protocol calls the batch, steps are one more variable axis. A
model of text reads `text`, BYTES `[-1, 1]`, and answers after the whole of it, without steps. One
that writes about vectors reads a vector, `text` behind it, or either.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np

from service.api.codec.decode import require_start
from service.api.codec.rows import LARGEST, are_beyond, has_beyond
from service.api.codec.tensors import DATATYPE_OF
from service.contract.calls import from_graph, into_graph
from service.contract.tensors import Axis, InputSpec, OutputSpec
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.requests import Observations
from service.errors import InvalidInputError

TEXT: Final = "text"
_PLATFORM: Final = "onnxruntime_onnx"


@dataclass(frozen=True)
class Tensor:
    """`axes` are those of the manifest, less what a client does not send."""

    name: str
    dtype: str
    axes: tuple[Axis, ...]

    @cached_property
    def datatype(self) -> str:
        return "BYTES" if self.dtype == "bytes" else DATATYPE_OF[self.dtype]

    @cached_property
    def binary_dtype(self) -> np.dtype[Any]:
        """Of its values in a body; not of BYTES."""
        return np.dtype(self.dtype).newbyteorder("<")

    @cached_property
    def shape(self) -> list[int]:
        return [axis if isinstance(axis, int) else -1 for axis in self.axes]

    def takes(self, shape: tuple[int, ...]) -> bool:
        if len(shape) != len(self.shape):
            return False
        for have, want in zip(shape, self.shape, strict=True):  # noqa: SIM110 -- faster than `all`
            if want not in (-1, have):
                return False
        return True

    def described(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": self.shape}


@dataclass(frozen=True)
class Signature:
    """What goes in and what comes out; small enough to be sent to the process that reads bodies."""

    inputs: tuple[Tensor, ...]
    optional: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: LoadedModel) -> "Signature":
        """That of a model, which is made once."""
        signature = _SIGNATURES.get(model)
        if signature is None:
            signature = _SIGNATURES[model] = cls._of(model)
        return signature

    @classmethod
    def _of(cls, model: LoadedModel) -> "Signature":
        graph = model.manifest.graph
        if model.codec is not None:
            text = Tensor(TEXT, "bytes", ("batch", 1))
            answered = tuple(
                Tensor(spec.name, spec.dtype, tuple(axis for axis in spec.shape if axis != "time"))
                for spec in graph.outputs
            )
            if model.x is not None:
                vector = Tensor(model.x.name, model.x.dtype, ("batch", model.num_values))
                return cls((), (vector, text), answered)
            return cls((text,), (), answered)
        fed = graph.tensors or tuple(spec for spec in graph.inputs if spec.role == "x")
        optional = [spec for spec in graph.inputs if spec.role in ("time", "constant")]
        return cls(
            tuple(_tensor(spec) for spec in fed),
            tuple(_tensor(spec) for spec in optional),
            tuple(_tensor(spec) for spec in graph.outputs),
        )

    @cached_property
    def datatypes(self) -> dict[str, str]:
        """Of the outputs, by name."""
        return {tensor.name: tensor.datatype for tensor in self.outputs}

    @cached_property
    def all_inputs(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in (*self.inputs, *self.optional)}


_SIGNATURES: WeakKeyDictionary[LoadedModel, Signature] = WeakKeyDictionary()


def metadata_of(model: LoadedModel, versions: list[str]) -> dict[str, Any]:
    signature = Signature.of(model)
    return {
        "name": model.name,
        "versions": versions,
        "platform": _PLATFORM,
        "inputs": [each.described() for each in (*signature.inputs, *signature.optional)],
        "outputs": [each.described() for each in signature.outputs],
    }


def config_of(model: LoadedModel, max_rows: int) -> dict[str, Any]:
    """The part of Triton's model configuration that its clients read."""
    signature = Signature.of(model)
    tensors = (*signature.inputs, *signature.outputs)
    is_batched = all(each.axes[0] == "batch" for each in tensors) and not model.constants
    first = 1 if is_batched else 0
    return {
        "name": model.name,
        "platform": _PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": max_rows if is_batched else 0,
        "input": [
            _configured(each, first) | {"optional": each in signature.optional}
            for each in (*signature.inputs, *signature.optional)
        ],
        "output": [_configured(each, first) for each in signature.outputs],
        "sequence_batching": {"max_sequence_idle_microseconds": 0},
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
        "parameters": {"carry_task": {"string_value": model.manifest.task}},
    }


def observations_of(
    model: LoadedModel, arrays: dict[str, np.ndarray]
) -> list[tuple[Observations, int | None]]:
    """Input arrays → what each row observes, and the time of its first step where one was sent.

    Raises:
        InvalidInputError: no rows, or rows or steps that do not belong together.
    """
    if model.codec is not None:
        return [(each, None) for each in _texts(model, arrays)]
    if model.observations is not None:
        return [(each, None) for each in _tensors(model, arrays)]
    assert model.x is not None, "a model reads text, tensors or rows"
    x = arrays[model.x.name]
    if has_beyond(x):
        raise InvalidInputError(
            f"input {model.x.name!r} holds {x[are_beyond(x)][0]:g}: expected numbers up to"
            f" {LARGEST:g} in size; check its unit"
        )
    if 0 in x.shape[:2]:
        raise InvalidInputError(
            f"input {model.x.name!r} has {x.shape[0]} rows of {x.shape[1]} steps: expected at least"
            " one of each"
        )
    starts: list[int | None] = [None] * len(x)
    if model.time is not None and model.time.name in arrays:
        starts = _starts(model, arrays[model.time.name], *x.shape[:2])
    return [
        (Observations(rows=np.ascontiguousarray(rows)), start)
        for rows, start in zip(x, starts, strict=True)
    ]


def outputs_of(model: LoadedModel, packed: list[bytes]) -> dict[str, np.ndarray]:
    """Packed outputs of each row, equally many steps of each → arrays in the manifest's shapes."""
    unpacked = [model.runner.outputs.unpack(each) for each in packed]
    arrays = {}
    for spec in model.manifest.graph.outputs:
        columns = [row[spec.name] for row in unpacked]
        values = np.stack(columns) if len(columns) > 1 else columns[0][None]  # [B, T, …]
        arrays[spec.name] = values[:, -1] if model.codec else into_graph(values, spec.shape)
    return arrays


def _tensor(spec: InputSpec | OutputSpec) -> Tensor:
    axes = list(spec.shape)
    if isinstance(spec, InputSpec) and spec.overlap:
        axes[-1] = spec.row_shape[-1]
    if isinstance(spec, InputSpec) and spec.role == "constant" and not axes:
        axes = [1]  # the protocol has no tensor without an axis
    return Tensor(spec.name, spec.dtype, tuple(axes))


def _configured(tensor: Tensor, first: int) -> dict[str, Any]:
    name = "STRING" if tensor.dtype == "bytes" else tensor.datatype
    return {"name": tensor.name, "data_type": f"TYPE_{name}", "dims": tensor.shape[first:]}


def _text(value: object) -> str:
    assert isinstance(value, bytes), "read so"
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"input {TEXT!r} is not valid UTF-8 ({error.reason})") from None


def _texts(model: LoadedModel, arrays: dict[str, np.ndarray]) -> list[Observations]:
    given = arrays.get(TEXT)
    texts = [] if given is None else [_text(each) for each in given.reshape(-1)]
    vectors = None if model.x is None else arrays.get(model.x.name)
    if vectors is None:
        if not texts:
            names = [TEXT] if model.x is None else [model.x.name, TEXT]
            raise InvalidInputError(f"the inputs have no rows: expected at least one of {names}")
        return [Observations(text=text) for text in texts]
    assert model.x is not None, "it read vectors"
    if not len(vectors):
        raise InvalidInputError(f"input {model.x.name!r} has no rows: expected at least one")
    texts = texts or [""] * len(vectors)
    if len(texts) != len(vectors):
        raise InvalidInputError(
            f"input {TEXT!r} has {len(texts)} rows: expected {len(vectors)}, as input"
            f" {model.x.name!r} has"
        )
    return [
        Observations(rows=vector[None], text=text)
        for vector, text in zip(vectors, texts, strict=True)
    ]


def _tensors(model: LoadedModel, arrays: dict[str, np.ndarray]) -> list[Observations]:
    layout = model.observations
    assert layout is not None, "of a model of tensors"
    tensors = {spec.name: from_graph(arrays[spec.name], spec.shape) for spec in layout.tensors}
    sizes = {values.shape[:2] for values in tensors.values()}
    num_rows, num_steps = next(iter(sizes))
    if len(sizes) > 1 or not num_rows or not num_steps:
        shapes = {spec.name: list(arrays[spec.name].shape) for spec in layout.tensors}
        raise InvalidInputError(
            f"the inputs have shapes {shapes}: expected as many rows and steps in each, and at"
            " least one"
        )
    chosen = {
        spec.name: arrays[spec.name].reshape(spec.row_shape)
        for spec in layout.constants
        if spec.name in arrays
    }
    constants = layout.pack_constants(chosen)
    return [
        Observations(
            tensors=layout.pack({name: values[row] for name, values in tensors.items()}),
            constants=constants,
        )
        for row in range(num_rows)
    ]


def _starts(
    model: LoadedModel, times: np.ndarray, num_rows: int, num_steps: int
) -> list[int | None]:
    assert model.time is not None, "its times were sent"
    where = f"input {model.time.name!r}"
    if times.shape != (num_rows, num_steps):
        raise InvalidInputError(
            f"{where} has shape {list(times.shape)}: expected {[num_rows, num_steps]}, a time for"
            " each step of each row"
        )
    if not (times == times[:, :1] + model.frequency_s * np.arange(num_steps)).all():
        raise InvalidInputError(
            f"{where} holds times that are not {model.frequency_s} s apart in each row: send steps"
            " that are missing as NaN"
        )
    starts: list[int | None] = []
    for start_s in times[:, 0].tolist():
        what = f"the time {start_s} of a first step"
        require_start(model.name, model.frequency_s, start_s, what)
        starts.append(start_s)
    return starts
