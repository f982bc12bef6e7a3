"""The golden run: a recorded sequence that a graph must reproduce, however it is fed.

It consists of the arrays `in.<input>` `[B, T, …]` padded, `length` `[B]` (one row has length 0),
`out.<output>` `[B, T, …]` (steps past a row's length are not compared) and `state.<output>`, the
packed-per-row final states `[B, …row shape]`.

Checks, each within the manifest's tolerance, in the scale of each output:
  whole      the padded batch gives the recorded outputs and final states
  untouched  a row of length 0 keeps its state bit by bit
  stepwise   one step at a time gives the same as the whole sequence
  chunked    uneven pieces give the same as the whole sequence
  alone      a row by itself gives the same as in the batch

An imported graph is fed in as many calls as its axes require (see `calls`), and needs a row of
length 0 only if it has an input for lengths. Its `in.<input>` is what clients send: no constants,
no overlap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.contract.bundle import Bundle
from service.contract.calls import Arrays, Calls, Run
from service.contract.errors import GoldenMismatchError
from service.contract.graph import GraphSpec
from service.contract.manifest import GoldenSpec
from service.contract.state import StateLayout, rows_from_axis


@dataclass(frozen=True, slots=True)
class GoldenRun:
    """Padded inputs, lengths, recorded outputs and final states."""

    inputs: Arrays
    length: np.ndarray
    outputs: Arrays
    states: Arrays

    def to_arrays(self) -> Arrays:
        return (
            {f"in.{name}": value for name, value in self.inputs.items()}
            | {"length": self.length}
            | {f"out.{name}": value for name, value in self.outputs.items()}
            | {f"state.{name}": value for name, value in self.states.items()}
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "GoldenRun":
        def part(prefix: str) -> Arrays:
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        if "length" not in arrays:
            raise GoldenMismatchError(
                "golden run: expected an array 'length', found none: export the bundle again"
            )
        return cls(part("in."), arrays["length"], part("out."), part("state."))

    def spreads(self) -> dict[str, float]:
        """Standard deviations of the recorded outputs and states by name, if greater than 1."""
        known = np.arange(int(self.length.max()))[None, :] < self.length[:, None]
        values = {name: value[:, : known.shape[1]][known] for name, value in self.outputs.items()}
        spreads = {
            name: float(np.std(value, dtype=np.float64))
            for name, value in (values | self.states).items()
        }
        return {name: spread for name, spread in spreads.items() if 1 < spread < np.inf}


def record_golden(
    graph: GraphSpec, layout: StateLayout, inputs: Arrays, length: np.ndarray, run: Run
) -> GoldenRun:
    """Run padded `inputs` `[B, T, …]` from the initial state and record the outputs."""
    feeds = _Feeds(graph, layout, inputs, length, run)
    outputs, rows = feeds.run_whole()
    return GoldenRun(inputs, length, outputs, _states_by_row(layout, rows))


def check_golden(bundle: Bundle, run: Run) -> None:
    """Raise GoldenMismatchError unless the graph passes every check."""
    manifest = bundle.manifest
    layout = bundle.state_layout()
    golden = GoldenRun.from_arrays(bundle.golden_arrays())
    _require_complete(manifest.graph, golden)
    _require_finite(manifest.graph, golden)
    if manifest.graph.input_with("length") and not (golden.length == 0).any():
        raise GoldenMismatchError(
            "golden run: expected a row of length 0, found none: export the bundle again"
        )
    compare = _Comparison(f"{manifest.name}/{manifest.version}", golden, manifest.golden)
    feeds = _Feeds(manifest.graph, layout, golden.inputs, golden.length, run)

    outputs, rows = feeds.run_whole()
    compare("whole", outputs, _states_by_row(layout, rows))
    for index in np.flatnonzero(golden.length == 0):
        if rows[index] != layout.initial_row:
            compare.fail("untouched", f"row {index} of length 0 changed its state")
    num_steps = int(golden.length.max())
    for name, cuts in (("stepwise", [1] * num_steps), ("chunked", _uneven_cuts(num_steps))):
        outputs, rows = feeds.run_in_cuts(cuts)
        compare(name, outputs, _states_by_row(layout, rows))
    outputs, rows = feeds.run_alone()
    compare("alone", outputs, _states_by_row(layout, rows))


def worst_difference(got: np.ndarray, expected: np.ndarray, scale: float = 1.0) -> float:
    """The largest difference relative to `max(scale, |expected|)`; NaN if any value is NaN."""
    size = np.maximum(scale, np.abs(expected, dtype=np.float64))
    return float(np.max(np.abs(got.astype(np.float64) - expected) / size, initial=0.0))


def call_once(
    graph: GraphSpec,
    layout: StateLayout,
    run: Run,
    inputs: Mapping[str, np.ndarray],
    length: np.ndarray,
    rows: Sequence[bytes],
) -> tuple[Arrays, list[bytes]]:
    """One call from packed `rows`: inputs `[B, T, …]` → outputs `[B, T, …]` and new rows.

    An imported graph may need several calls.
    """
    if graph.tensors:
        return Calls(graph, layout).run_all(run, inputs, length, rows)
    feeds = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
    feeds |= layout.gather(rows)
    length_spec = graph.input_with("length")
    if length_spec is not None:
        feeds[length_spec.name] = length.astype(length_spec.numpy_dtype)
    answers = run(feeds)
    return {o.name: answers[o.name] for o in graph.outputs}, layout.scatter(answers)


def call_in_cuts(
    graph: GraphSpec,
    layout: StateLayout,
    run: Run,
    inputs: Mapping[str, np.ndarray],
    length: np.ndarray,
    rows: list[bytes],
    cuts: Sequence[int],
) -> tuple[Arrays, list[bytes]]:
    """As `call_once`, in consecutive pieces of `cuts[i]` steps."""
    parts: list[Arrays] = []
    start = 0
    for size in cuts:
        piece = {name: value[:, start : start + size] for name, value in inputs.items()}
        left = np.clip(length - start, 0, size)
        outputs, rows = call_once(graph, layout, run, piece, left, rows)
        parts.append(outputs)
        start += size
    return {k: np.concatenate([p[k] for p in parts], axis=1) for k in parts[0]}, rows


class _Feeds:
    """Feeds one padded batch to a graph as a whole, in cuts, or row by row."""

    def __init__(
        self, graph: GraphSpec, layout: StateLayout, inputs: Arrays, length: np.ndarray, run: Run
    ) -> None:
        self._graph = graph
        self._layout = layout
        self._inputs = inputs
        self._length = length
        self._run = run

    def run_whole(self) -> tuple[Arrays, list[bytes]]:
        return self._call(self._inputs, self._length, self._initial(len(self._length)))

    def run_in_cuts(self, cuts: Sequence[int]) -> tuple[Arrays, list[bytes]]:
        rows = self._initial(len(self._length))
        return call_in_cuts(
            self._graph, self._layout, self._run, self._inputs, self._length, rows, cuts
        )

    def run_alone(self) -> tuple[Arrays, list[bytes]]:
        """Rows of length 0 are skipped: alone there is nothing to feed."""
        whole, rows = self.run_whole()
        whole = {name: value.copy() for name, value in whole.items()}
        for index in np.flatnonzero(self._length > 0):
            size = int(self._length[index])
            piece = {k: v[index : index + 1, :size] for k, v in self._inputs.items()}
            outputs, [rows[index]] = self._call(
                piece, self._length[index : index + 1], self._initial(1)
            )
            for name, value in outputs.items():
                whole[name][index, :size] = value[0]
        return whole, rows

    def _initial(self, num_rows: int) -> list[bytes]:
        return [self._layout.initial_row] * num_rows

    def _call(
        self, inputs: Arrays, length: np.ndarray, rows: list[bytes]
    ) -> tuple[Arrays, list[bytes]]:
        return call_once(self._graph, self._layout, self._run, inputs, length, rows)


class _Comparison:
    """Compares a run with the golden run and reports the first difference."""

    def __init__(self, where: str, golden: GoldenRun, spec: GoldenSpec) -> None:
        self._where = where
        self._golden = golden
        self._spec = spec
        steps = np.arange(int(golden.length.max()))
        self._valid = steps[None, :] < golden.length[:, None]

    def __call__(self, way: str, outputs: Arrays, states: Arrays) -> None:
        for name, expected in self._golden.outputs.items():
            size = self._valid.shape[1]
            self._compare(
                way, name, outputs[name][:, :size][self._valid], expected[:, :size][self._valid]
            )
        for name, expected in self._golden.states.items():
            self._compare(way, name, states[name], expected)

    def _compare(self, way: str, name: str, got: np.ndarray, expected: np.ndarray) -> None:
        scale, tolerance = self._spec.scales.get(name, 1.0), self._spec.tolerance
        worst = worst_difference(got, expected, scale)
        if not worst <= tolerance:
            self.fail(
                way,
                f"{name!r} differs by {worst:.3g} of max({scale:g}, |recorded|), expected at most"
                f" {tolerance:g}",
            )

    def fail(self, way: str, what: str) -> None:
        raise GoldenMismatchError(
            f"{self._where}: golden run, fed {way}: {what}; the graph is not the exported one, or"
            " its states are paired wrongly: export it again"
        )


def _states_by_row(layout: StateLayout, rows: Sequence[bytes]) -> Arrays:
    """Packed rows → `{output name: [B, …row shape]}`, whatever the graph's batch axis."""
    if any(spec.batch_axis is None for spec in layout.specs):
        each = [layout.gather([row]) for row in rows]
        return {s.output: np.stack([row[s.input] for row in each]) for s in layout.specs}
    gathered = layout.gather(rows)
    return {
        spec.output: rows_from_axis(gathered[spec.input], spec.batch_axis) for spec in layout.specs
    }


def _uneven_cuts(num_steps: int) -> list[int]:
    cuts: list[int] = []
    while (left := num_steps - sum(cuts)) > 0:
        cuts.append(min(left, 1 + 3 * len(cuts)))
    return cuts


def _require_complete(graph: GraphSpec, golden: GoldenRun) -> None:
    """The run must contain every input, output and state of the graph."""
    fed = {spec.name for spec in graph.inputs if spec.role not in ("length", "constant")}
    parts = (
        ("inputs", golden.inputs, fed),
        ("outputs", golden.outputs, {spec.name for spec in graph.outputs}),
        ("states", golden.states, {spec.output for spec in graph.carried}),
    )
    for kind, found, expected in parts:
        if set(found) != expected:
            raise GoldenMismatchError(
                f"golden run: expected the {kind} {sorted(expected)} of the graph, found"
                f" {sorted(found)}: export the bundle again"
            )


def _require_finite(graph: GraphSpec, golden: GoldenRun) -> None:
    """The service refuses results that are not finite, so it could not serve such a graph.

    Outputs after the end of a row are ignored.
    """
    is_fed = np.arange(int(golden.length.max(initial=0))) < golden.length[:, None]
    answered = {n: v[:, : is_fed.shape[1]][is_fed] for n, v in golden.outputs.items()}
    states = {each.output: golden.states[each.output] for each in graph.states}
    for name, values in (answered | states).items():
        if not np.isfinite(values).all():
            raise GoldenMismatchError(
                f"golden run: expected finite numbers in every output and state, found infinity or"
                f" NaN in {name!r}: write a mask as a large number, such as -1e9"
            )
