"""Tensor specifications: what one input, output or state of a graph looks like.

Axis legend for the whole tree: B rows, T steps, F features, H hidden, L layers, V vocabulary,
S state size, Q quantiles, K horizon. In a specification the row axis is written ``"batch"`` and
the step axis ``"time"``; every other axis is a fixed number.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

DType = Literal["float32", "float16", "float64", "int64", "int32", "bool"]
Axis = Literal["batch", "time"] | Annotated[int, Field(ge=1)]
TensorName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]

InputRole = Literal["x", "tokens", "time", "known", "length", "constant"]
OutputRole = Literal["mean", "quantiles", "probabilities", "logits", "value"]

ONNX_TYPES: Mapping[str, str] = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "float64": "tensor(double)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
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
    """An input that is not state. `role` tells the service what to feed it with."""

    role: InputRole


class OutputSpec(TensorSpec):
    """An output that is not state: one value for every step, `[batch, time, …]`."""

    role: OutputRole


def describe_shape(shape: tuple[Axis, ...]) -> str:
    """`[batch, time, 34]`, as people read it in messages."""
    return "[" + ", ".join(str(axis) for axis in shape) + "]"
