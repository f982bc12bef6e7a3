"""What a graph takes and gives: the names, types and axes of its inputs and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from service.contract.tensors import ONNX_TYPES
from training.foreign.recurrence import Recurrence

DTYPES: Final = {onnx: dtype for dtype, onnx in ONNX_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output. An axis is a number, the name of a free axis, or None."""

    name: str
    type: str
    shape: list[int | str | None]

    @property
    def dtype(self) -> str:
        return DTYPES[self.type]

    @property
    def free(self) -> list[int]:
        """Axes whose size is not fixed by the graph."""
        return [place for place, size in enumerate(self.shape) if not is_size(size)]

    def key(self, place: int) -> str:
        """What an axis is called in the options: by its name, or as INPUT.NUMBER."""
        size = self.shape[place]
        return size if isinstance(size, str) else f"{self.name}.{place}"

    def is_called(self, place: int, key: str) -> bool:
        return key in (self.shape[place], f"{self.name}.{place}")

    def __str__(self) -> str:
        axes = ", ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.dtype} [{axes}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """A graph's inputs and outputs by name, and what its nodes say of them."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    recurrence: Recurrence = field(default_factory=Recurrence)


def is_size(axis: object) -> bool:
    return isinstance(axis, int) and axis > 0


def may_be_same(first: Tensor, second: Tensor) -> bool:
    """Whether one value could pass from the second to the first."""
    return (
        first.type == second.type
        and len(first.shape) == len(second.shape)
        and all(
            a == b or not (is_size(a) and is_size(b))
            for a, b in zip(first.shape, second.shape, strict=True)
        )
    )


def described(tensors: Mapping[str, Tensor], limit: int = 12) -> str:
    """`x float32 [batch, 3], h float32 [1, batch, 5]`."""
    shown = [f"{tensor.name[:128]} {tensor}" for tensor in list(tensors.values())[:limit]]
    more = len(tensors) - len(shown)
    return ", ".join([*shown, f"and {more} more"] if more else shown) or "none"
