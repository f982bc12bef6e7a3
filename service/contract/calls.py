"""One call of an imported graph, whatever its axes.

Outside this module, tensors are `[B, T, …]`: rows, steps, and the axes of one observation. A graph
may have B and T anywhere, or lack one: then a call takes one row, or one step. An input with
overlap repeats the end of the previous observation: it is prepended here, and carried as a state.

Rule 1: without a length, every row of a call has the same number of steps.
Rule 2: every row of a call has at least one step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from service.contract.graph import GraphSpec, overlap_name
from service.contract.state import StateLayout, rows_from_axis, rows_into_axis
from service.contract.tensors import Axis, InputSpec

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]
"""Runs the graph once: all inputs by name, states included, → all outputs by name."""

_AXIS_INDEXES: Final[dict[Axis, int]] = {"batch": 0, "time": 1}


class Calls:
    """Builds the inputs of a call, and reads its outputs."""

    def __init__(self, graph: GraphSpec, layout: StateLayout) -> None:
        self.graph = graph
        self.layout = layout
        self._ends = {spec.output: spec.batch_axis for spec in graph.carried}

    def feeds(
        self,
        tensors: Mapping[str, np.ndarray],
        rows: Sequence[bytes],
        length: np.ndarray,
        constants: Mapping[str, np.ndarray],
    ) -> tuple[Arrays, Arrays]:
        """Tensors `[B, T, …]` → the inputs of one call, and the new ends of inputs with overlap.

        Missing constants get the value of the manifest.
        """
        graph, ends = self.graph, Arrays()
        feeds = self.layout.gather(rows)
        for spec in graph.tensors:
            values = tensors[spec.name]
            if spec.overlap:
                name = overlap_name(spec)
                axis = self._ends[name]
                before = rows_from_axis(feeds.pop(name), axis)
                values, end = _with_overlap(values, before, length)
                ends[name] = rows_into_axis(end, axis)
            feeds[spec.name] = into_graph(values, spec.shape)
        for spec in graph.constants:
            feeds[spec.name] = constants.get(spec.name, spec.constant)
        length_spec = graph.input_with("length")
        if length_spec is not None:
            feeds[length_spec.name] = length.astype(length_spec.numpy_dtype)
        return feeds, ends

    def outputs(self, answers: Mapping[str, np.ndarray]) -> Arrays:
        """The outputs of a call, each `[B, T, …]`."""
        return {
            spec.name: from_graph(answers[spec.name], spec.shape) for spec in self.graph.outputs
        }

    def run_all(
        self,
        run: Run,
        tensors: Mapping[str, np.ndarray],
        length: np.ndarray,
        rows: Sequence[bytes],
    ) -> tuple[Arrays, list[bytes]]:
        """Padded tensors `[B, T, …]`, in as many calls as needed → outputs and new rows."""
        num_rows, num_steps = next(iter(tensors.values())).shape[:2]
        outputs = {
            spec.name: np.zeros((num_rows, num_steps, *spec.row_shape), spec.dtype)
            for spec in self.graph.outputs
        }
        rows = list(rows)
        for indexes, start, end in self._pieces(length):
            piece = {name: value[indexes, start:end] for name, value in tensors.items()}
            lengths = np.minimum(length[indexes], end) - start
            feeds, ends = self.feeds(piece, [rows[index] for index in indexes], lengths, {})
            answers = run(feeds) | ends
            for name, value in self.outputs(answers).items():
                outputs[name][indexes, start:end] = value
            for index, row in zip(indexes, self.layout.scatter(answers), strict=True):
                rows[index] = row
        return outputs, rows

    def _pieces(self, length: np.ndarray) -> Iterator[tuple[list[int], int, int]]:
        """The rows and the range of steps of each call."""
        graph, longest = self.graph, int(length.max(initial=0))
        if graph.takes_steps and graph.input_with("length") is not None:
            pieces = [(np.flatnonzero(length > 0), 0, longest)]
        elif graph.takes_steps:
            sizes = sorted({int(size) for size in length if size})
            pieces = [(np.flatnonzero(length == size), 0, size) for size in sizes]
        else:
            pieces = [(np.flatnonzero(length > t), t, t + 1) for t in range(longest)]
        for found, start, end in pieces:
            indexes = [int(index) for index in found]
            for batch in [indexes] if graph.takes_rows else [[index] for index in indexes]:
                if batch:
                    yield batch, start, end


class ObservationLayout:
    """Packs the tensors of one observation into bytes.

    A packed observation is the concatenation, in manifest order, of each tensor's values in C
    order, little-endian. Packed constants are the same, or empty if they equal the manifest's.
    """

    def __init__(self, graph: GraphSpec) -> None:
        self.tensors = graph.tensors
        self.constants = graph.constants
        self._only = self.tensors[0] if len(self.tensors) == 1 else None
        self.observation = _columns(self.tensors)
        self._constants = _columns(self.constants)

    def pack(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """`{name: [T, …]}` → bytes `[T, n]`."""
        if self._only is not None:
            values = np.ascontiguousarray(tensors[self._only.name], self._only.dtype)
            return values.reshape(len(values), -1).view(np.uint8)
        packed = np.empty(len(next(iter(tensors.values()))), self.observation)
        for spec in self.tensors:
            packed[spec.name] = tensors[spec.name]
        return packed.view(np.uint8).reshape(len(packed), -1)

    def unpack(self, packed: np.ndarray) -> Arrays:
        """Bytes `[B, T, n]` → `{name: [B, T, …]}`."""
        values = np.ascontiguousarray(packed).view(self.observation)[..., 0]
        return {spec.name: values[spec.name] for spec in self.tensors}

    def pack_constants(self, chosen: Mapping[str, np.ndarray]) -> bytes:
        """The constants of an observation; those not in `chosen` are the manifest's."""
        if not chosen:
            return b""
        values = {spec.name: chosen.get(spec.name, spec.constant) for spec in self.constants}
        if all(np.array_equal(values[spec.name], spec.constant) for spec in self.constants):
            return b""
        packed = np.empty(1, self._constants)
        for name, value in values.items():
            packed[name] = value
        return packed.tobytes()

    def unpack_constants(self, packed: bytes) -> Arrays:
        if not packed:
            return {}
        [values] = np.frombuffer(packed, self._constants)
        return {spec.name: np.asarray(values[spec.name]) for spec in self.constants}


def _columns(specs: Sequence[InputSpec]) -> np.dtype[np.void]:
    return np.dtype([(spec.name, spec.dtype, spec.row_shape) for spec in specs])


class _Axes(NamedTuple):
    num_lacking: int
    into: tuple[int, ...]
    back: tuple[int, ...]


@lru_cache
def _axes(shape: tuple[Axis, ...]) -> _Axes:
    """How many of the axes `[B, T, …]` the graph lacks, and the orders into its axes and back."""
    numbers = iter(range(2, 2 + len(shape)))
    order = [_AXIS_INDEXES[axis] if isinstance(axis, str) else next(numbers) for axis in shape]
    lacking = [place for place in (0, 1) if place not in order]
    into = lacking + order
    return _Axes(len(lacking), tuple(into), tuple(np.argsort(into).tolist()))


def into_graph(values: np.ndarray, shape: tuple[Axis, ...]) -> np.ndarray:
    if shape[:2] == ("batch", "time"):
        return np.ascontiguousarray(values)
    num_lacking, order, _ = _axes(shape)
    moved = values.transpose(order)
    return np.ascontiguousarray(moved.reshape(moved.shape[num_lacking:]))


def from_graph(values: np.ndarray, shape: tuple[Axis, ...]) -> np.ndarray:
    num_lacking, _, order = _axes(shape)
    return values.reshape((1,) * num_lacking + values.shape).transpose(order)


def _with_overlap(
    values: np.ndarray, before: np.ndarray, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values `[B, T, …, n]` after `before` `[B, …, overlap]` → each with the end of the previous
    one prepended, `[B, T, …, overlap + n]`, and the end of each row `[B, …, overlap]`.
    """
    overlap, size = before.shape[-1], values.shape[-1]
    joined = np.moveaxis(values, 1, -2).reshape(*before.shape[:-1], -1)
    stream = np.concatenate([before, joined], axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(stream, overlap + size, axis=-1)
    repeated = np.moveaxis(windows[..., ::size, :], -2, 1)
    ends = [row[..., num * size : num * size + overlap] for row, num in zip(stream, length)]  # noqa: B905 -- one each
    return repeated, np.stack(ends)
