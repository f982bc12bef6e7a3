"""One graph in ONNX Runtime: gather rows, run, scatter rows.

Rule 1: a row is independent of its neighbours; padding past a row's length never changes it.
Rule 2: every row has at least one step (ONNX Runtime's recurrent kernels return zeros for rows of
        length 0, so such rows must not come here).
Rule 3: a batch is staged and taken apart where its jobs live; only the call itself may be made in
        another thread. Nothing is kept between calls.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from service.contract.errors import BundleError
from service.contract.graph import GraphSpec
from service.contract.outputs import OutputLayout
from service.contract.state import StateLayout
from service.contract.tensors import ONNX_TYPES, Axis, describe_shape
from service.engine.graph.finiteness import FiniteCheck
from service.engine.graph.ort import ort
from service.errors import StartUpError

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class BatchResult(NamedTuple):
    """What a batch came to: `states` and `last` (outputs of its last step), packed, of each row.

    Bytes `[B, …]`. `outputs` are all steps, `[B, T, …]`; past a row's length they are undefined.
    `refused` are the rows of which something is inf or NaN, bool `[B]`; None where there are none.
    """

    states: np.ndarray
    last: np.ndarray
    outputs: dict[str, np.ndarray]
    refused: np.ndarray | None = None

    def state_of(self, row: int) -> bytes:
        return bytes(self.states[row])

    def last_of(self, row: int) -> bytes:
        return bytes(self.last[row])

    def without_refused(self) -> "BatchResult":
        """The other rows alone, in their order."""
        if self.refused is None:
            return self
        kept = ~self.refused
        outputs = {name: values[kept] for name, values in self.outputs.items()}
        return BatchResult(self.states[kept], self.last[kept], outputs)


class Batch:
    """One call of the graph: staged, then run, in any thread, then taken apart.

    `num_cells` are its rows × steps, padding included. `error` is set where the runtime raised;
    `ort_s` is the time inside it, from `began_s` on.
    """

    __slots__ = (
        "_fetches",
        "_ort_session",
        "answers",
        "began_s",
        "error",
        "feeds",
        "lengths",
        "num_cells",
        "ort_s",
    )

    def __init__(
        self,
        ort_session: ort.InferenceSession,
        fetches: list[str],
        feeds: dict[str, np.ndarray],
        lengths: np.ndarray,
        num_cells: int,
    ) -> None:
        self._ort_session = ort_session
        self._fetches = fetches
        self.feeds = feeds
        self.lengths = lengths
        self.num_cells = num_cells
        self.answers: list[np.ndarray] = []
        self.error: Exception | None = None
        self.began_s = self.ort_s = 0.0

    def run(self) -> None:
        """Call the graph. Nothing else is done here: another thread holds up the event loop."""
        self.began_s = time.perf_counter()
        try:
            self.answers = self._ort_session.run(self._fetches, self.feeds)
        except Exception as error:
            self.error = error
        self.ort_s = time.perf_counter() - self.began_s


class Runner:
    """Runs batches of rows through one graph."""

    def __init__(
        self,
        ort_session: ort.InferenceSession,
        graph: GraphSpec,
        layout: StateLayout,
        frequency_s: int = 0,
    ) -> None:
        self._ort_session = ort_session
        self.provider = _short_name(ort_session.get_providers()[0])
        self._x = graph.input_with("x")
        self._tokens = graph.input_with("tokens")
        main = self._x or self._tokens
        self._main = None if main is None else (main.name, main.numpy_dtype)
        self._time = graph.input_with("time")
        self._length = graph.input_with("length")
        self._frequency_s = frequency_s
        self._output_names = [spec.name for spec in graph.outputs]
        self._fetches = self._output_names + [spec.output for spec in graph.states]
        self._layout = layout
        self.outputs = OutputLayout(graph.outputs)
        self._finite_check = FiniteCheck(graph)

    def close(self) -> None:
        """Free the graph, even if others still refer to the runner. No batch may be running."""
        del self._ort_session

    def stage(
        self,
        values: Sequence[np.ndarray] | np.ndarray,
        states: Sequence[bytes],
        num_steps: Sequence[int],
        first_times: Sequence[int] = (),
        starts: Sequence[int] = (),
        constants: bytes = b"",
    ) -> Batch:
        """Gather rows into one batch, padded to the longest: of each, its values and its state.

        Values that are one array already, `[B, T, …]`, are taken as they are.

        Where the model uses time, they are the steps from `starts` on of runs that begin at
        `first_times`. Constants are for graphs that were brought along: see `TensorRunner`.
        """
        assert not constants, "the manifest lets only a graph of tensors have any"
        longest = max(num_steps)
        lengths = np.array(num_steps)
        feeds = self._layout.gather(states) | self.observed(values, longest)
        if self._time is not None:
            firsts = np.array(first_times) + self._frequency_s * np.array(starts)
            times = firsts[:, None] + self._frequency_s * np.arange(longest)
            feeds[self._time.name] = times.astype(self._time.dtype, copy=False)
        if self._length is not None:
            feeds[self._length.name] = lengths.astype(self._length.dtype, copy=False)
        return Batch(self._ort_session, self._fetches, feeds, lengths, longest * len(lengths))

    def observed(
        self, values: Sequence[np.ndarray] | np.ndarray, longest: int
    ) -> dict[str, np.ndarray]:
        """What rows observe, padded to the longest, by input name."""
        assert self._main is not None, "the manifest asks for x or tokens"
        name, dtype = self._main
        if isinstance(values, np.ndarray):
            return {name: values.astype(dtype, copy=False)}
        return {name: pad_rows(values, longest, dtype)}

    def take(self, batch: Batch) -> BatchResult:
        """Scatter what the graph answered into packed rows."""
        answers = dict(zip(self._fetches, batch.answers, strict=True))
        outputs = {name: answers[name] for name in self._output_names}
        return self._result(outputs, answers, batch.lengths)

    def _result(
        self,
        outputs: dict[str, np.ndarray],
        answers: dict[str, np.ndarray],
        lengths: np.ndarray,
    ) -> BatchResult:
        """Outputs `[B, T, …]`, and answers with the new states among them."""
        last = self.outputs.join_last(outputs, lengths)
        refused = self._finite_check.refused(outputs, answers, lengths, last)
        return BatchResult(self._layout.pack(answers), last.view(np.uint8), outputs, refused)

    def call(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One bare call of the graph: all inputs by name → all outputs by name."""
        answers = self._ort_session.run(self._fetches, feeds)
        return dict(zip(self._fetches, answers, strict=True))


def open_ort_session(graph: bytes, provider: str, num_threads: int) -> ort.InferenceSession:
    """Load a graph from bytes (never from a path, so that it can name no other file)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(graph, options, providers=_provider_names(provider))
    except Exception as error:  # ONNX Runtime raises many classes of its own for a bad graph
        first_line = str(error).strip().splitlines()[0]
        raise BundleError(f"ONNX Runtime cannot load the graph: {first_line}") from None


def resolve_provider(wanted: str) -> str:
    """`auto` → what this installation offers; anything else is checked.

    Raises:
        StartUpError: the wanted provider is not in the installed ONNX Runtime.
    """
    available = ort.get_available_providers()
    offered = [name for name, full_name in _PROVIDERS.items() if full_name in available]
    chosen = wanted
    if wanted == "auto":
        chosen = "cuda" if "cuda" in offered else "cpu"
    if chosen not in offered:
        raise StartUpError(
            f"CARRY_PROVIDER is {wanted!r}: the installed ONNX Runtime offers {offered};"
            " install the extra `cuda` in place of `cpu`, or choose another provider"
        )
    if chosen == "cuda":
        ort.preload_dlls()  # CUDA and cuDNN from their Python packages, where those are installed
    return chosen


def check_signature(ort_session: ort.InferenceSession, graph: GraphSpec) -> None:
    """Raise BundleError unless the graph's inputs and outputs are those of the manifest."""
    fed: dict[str, tuple[str, tuple[Axis, ...]]] = {}
    fed |= {spec.name: (spec.dtype, spec.shape) for spec in graph.inputs}
    fed |= {spec.input: (spec.dtype, spec.shape) for spec in graph.states}
    answered: dict[str, tuple[str, tuple[Axis, ...]]] = {}
    answered |= {spec.name: (spec.dtype, spec.shape) for spec in graph.outputs}
    answered |= {spec.output: (spec.dtype, spec.shape) for spec in graph.states}
    _check_tensors("input", ort_session.get_inputs(), fed)
    _check_tensors("output", ort_session.get_outputs(), answered)


def _check_tensors(
    kind: str, found: Sequence[ort.NodeArg], expected: dict[str, tuple[str, tuple[Axis, ...]]]
) -> None:
    names = sorted(arg.name for arg in found)
    if names != sorted(expected):
        raise BundleError(
            f"the graph's {kind}s are {names}, the manifest names {sorted(expected)}:"
            " export the bundle again"
        )
    for arg in found:
        dtype, shape = expected[arg.name]
        if arg.type != ONNX_TYPES[dtype] or not _shape_fits(arg.shape, shape):
            raise BundleError(
                f"{kind} {arg.name!r} of the graph is {arg.type} {arg.shape}, the manifest says"
                f" {ONNX_TYPES[dtype]} {describe_shape(shape)}: export the bundle again"
            )


def _shape_fits(found: Sequence[int | str | None], expected: Sequence[Axis]) -> bool:
    """A named axis must be free in the graph; a fixed one must be equal, or unknown to it."""
    if len(found) != len(expected):
        return False
    return all(
        not isinstance(have, int)
        if isinstance(want, str)
        else have in (want, None) or isinstance(have, str)
        for have, want in zip(found, expected, strict=True)
    )


def _short_name(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider").lower()


def _provider_names(provider: str) -> list[str]:
    return list(dict.fromkeys([_PROVIDERS[provider], _PROVIDERS["cpu"]]))


def pad_rows(
    values: Sequence[np.ndarray], num_steps: int, dtype: np.dtype[np.generic]
) -> np.ndarray:
    """`B` arrays `[T_b, …]` → `[B, T, …]`, zeros past each row's end."""
    first = values[0]
    joined = first if len(values) == 1 else np.concatenate(values)
    if len(joined) == len(values) * num_steps:
        padded = np.ascontiguousarray(joined).reshape(len(values), num_steps, *first.shape[1:])
        return padded.astype(dtype, copy=False)
    padded = np.zeros((len(values), num_steps, *first.shape[1:]), dtype)
    for row, value in zip(padded, values, strict=True):
        row[: len(value)] = value
    return padded
