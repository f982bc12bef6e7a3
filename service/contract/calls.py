"""One bare call of a graph that was brought along, whichever axes it has.

Outside, tensors are `[B, T, …]`: rows, steps, and what one observation has. A graph may have those
two axes anywhere, or lack them: then a call takes one row, or one step. Where an input overlaps,
what it repeats is put before it here, and its end is carried like a state.

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
"""Feeds one call of the graph (all inputs by name, states too) and returns all outputs by name."""

_PLACES: Final[dict[Axis, int]] = {"batch": 0, "time": 1}


class Calls:
    """Makes the inputs of a call and reads its outputs."""

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
        """Tensors `[B, T, …]` → the inputs of one call, and the ends of inputs that overlap.

        Constants that are not given have the value of the manifest.
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
        """Padded tensors `[B, T, …]`, in as many calls as it takes → outputs and new rows."""
        num_rows, num_steps = next(iter(tensors.values())).shape[:2]
        outputs = {
            spec.name: np.zeros((num_rows, num_steps, *spec.row_shape), spec.dtype)
            for spec in self.graph.outputs
        }
        rows = list(rows)
        for places, start, end in self._pieces(length):
            piece = {name: value[places, start:end] for name, value in tensors.items()}
            lengths = np.minimum(length[places], end) - start
            feeds, ends = self.feeds(piece, [rows[place] for place in places], lengths, {})
            answers = run(feeds) | ends
            for name, value in self.outputs(answers).items():
                outputs[name][places, start:end] = value
            for place, row in zip(places, self.layout.scatter(answers), strict=True):
                rows[place] = row
        return outputs, rows

    def _pieces(self, length: np.ndarray) -> Iterator[tuple[list[int], int, int]]:
        """Which rows, from which step to which, may be one call."""
        graph, longest = self.graph, int(length.max(initial=0))
        if graph.takes_steps and graph.input_with("length") is not None:
            pieces = [(np.flatnonzero(length > 0), 0, longest)]
        elif graph.takes_steps:
            sizes = sorted({int(size) for size in length if size})
            pieces = [(np.flatnonzero(length == size), 0, size) for size in sizes]
        else:
            pieces = [(np.flatnonzero(length > t), t, t + 1) for t in range(longest)]
        for found, start, end in pieces:
            places = [int(place) for place in found]
            for together in [places] if graph.takes_rows else [[place] for place in places]:
                if together:
                    yield together, start, end


class ObservationLayout:
    """Packs what clients send by name into one run of bytes for each observation.

    A packed observation is the concatenation, in manifest order, of each tensor's values in C
    order, little-endian; packed constants likewise, empty where they are those of the manifest.
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
        """The constants of an observation, with the manifest's for those that are not chosen."""
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
    order = [_PLACES[axis] if isinstance(axis, str) else next(numbers) for axis in shape]
    lacking = [place for place in (0, 1) if place not in order]
    into = lacking + order
    return _Axes(len(lacking), tuple(into), tuple(np.argsort(into).tolist()))


def into_graph(values: np.ndarray, shape: tuple[Axis, ...]) -> np.ndarray:
    num_lacking, order, _ = _axes(shape)
    moved = values.transpose(order)
    return np.ascontiguousarray(moved.reshape(moved.shape[num_lacking:]))


def from_graph(values: np.ndarray, shape: tuple[Axis, ...]) -> np.ndarray:
    num_lacking, _, order = _axes(shape)
    return values.reshape((1,) * num_lacking + values.shape).transpose(order)


def _with_overlap(
    values: np.ndarray, before: np.ndarray, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values `[B, T, …, n]` behind `before` `[B, …, overlap]` → each with the end of the one before
    it, `[B, T, …, overlap + n]`, and the end of each row `[B, …, overlap]`.
    """
    overlap, size = before.shape[-1], values.shape[-1]
    joined = np.moveaxis(values, 1, -2).reshape(*before.shape[:-1], -1)
    stream = np.concatenate([before, joined], axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(stream, overlap + size, axis=-1)
    repeated = np.moveaxis(windows[..., ::size, :], -2, 1)
    ends = [row[..., num * size : num * size + overlap] for row, num in zip(stream, length)]  # noqa: B905 -- one each
    return repeated, np.stack(ends)
