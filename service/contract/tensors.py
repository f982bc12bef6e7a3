"""Tensor specifications: name, type and shape of the inputs and outputs of a graph.

Axis legend of the whole project: B rows, T steps, F features, H hidden, L layers, V vocabulary,
S state size, Q quantiles, K horizon. In a specification the row axis is written ``"batch"`` and
the step axis ``"time"``; every other axis is a fixed number.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

DType = Literal[
    "float32", "float16", "float64", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool",
]  # fmt: skip
Axis = Literal["batch", "time"] | Annotated[int, Field(ge=1)]
TensorName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]

InputRole = Literal["x", "tokens", "time", "known", "length", "tensor", "constant"]
OutputRole = Literal["mean", "quantiles", "probabilities", "logits", "value"]

ONNX_TYPES: Mapping[str, str] = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "float64": "tensor(double)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "int16": "tensor(int16)",
    "int8": "tensor(int8)",
    "uint64": "tensor(uint64)",
    "uint32": "tensor(uint32)",
    "uint16": "tensor(uint16)",
    "uint8": "tensor(uint8)",
    "bool": "tensor(bool)",
}


class TensorSpec(BaseModel):
    """Name, element type and shape of one tensor of the graph."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: TensorName
    dtype: DType
    shape: tuple[Axis, ...] = Field(max_length=8)

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        return np.dtype(self.dtype)

    def concrete(self, num_rows: int, num_steps: int = 1) -> tuple[int, ...]:
        """The shape for `num_rows` rows of `num_steps` steps."""
        sizes = {"batch": num_rows, "time": num_steps}
        return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.shape)


class InputSpec(TensorSpec):
    """An input that is not state. `role` tells the service what to feed it with.

    `overlap`: so many values of the last axis repeat the end of the observation before (zeros
    before the first); clients send the rest, and the service keeps what is repeated. `value` is
    what a constant is fed with where a client sends no other.
    """

    role: InputRole
    overlap: int = Field(default=0, ge=0)
    value: Any = None

    @model_validator(mode="after")
    def _overlap_leaves_something(self) -> Self:
        if self.overlap:
            last = self.shape[-1] if self.shape else 0
            if self.role != "tensor" or isinstance(last, str) or last <= self.overlap:
                raise ValueError(
                    f"input {self.name!r} {describe_shape(self.shape)} with overlap {self.overlap}:"
                    " expected role 'tensor' and a last axis longer than the overlap"
                )
        return self

    @model_validator(mode="after")
    def _only_constants_have_a_value(self) -> Self:
        if self.role != "constant":
            if self.value is not None:
                raise ValueError(
                    f"input {self.name!r}: only an input with role 'constant' has a value"
                )
            return self
        try:
            found = np.array(self.value, self.dtype).shape
        except (TypeError, ValueError, OverflowError):
            found = None
        if found != self.shape:
            raise ValueError(
                f"constant {self.name!r}: expected a value of {self.dtype}"
                f" {describe_shape(self.shape)}, found {self.value!r}"
            )
        return self

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape that clients send for one observation: no batch, time or overlap."""
        sizes = [axis for axis in self.shape if isinstance(axis, int)]
        if self.overlap:
            sizes[-1] -= self.overlap
        return tuple(sizes)

    @property
    def constant(self) -> np.ndarray:
        return np.array(self.value, self.dtype)


class OutputSpec(TensorSpec):
    """An output that is not state: one value for every step."""

    role: OutputRole

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row and step."""
        return tuple(axis for axis in self.shape if isinstance(axis, int))


def describe_shape(shape: tuple[Axis, ...]) -> str:
    """Such as `[batch, time, 34]`, for messages."""
    return "[" + ", ".join(str(axis) for axis in shape) + "]"
