"""An exported graph as a server sees it: bytes, a state layout, and a call.

Evaluations go through here, so that a card's figures are those of the graph that is shipped.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # ships no type information

from service.contract.bundle import Bundle
from service.contract.golden import Run
from service.contract.manifest import GraphSpec
from service.contract.state import StateLayout
from service.contract.text import TextCodec

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Feeds sequences from the initial state and gives back every step's answers."""

    graph: GraphSpec
    layout: StateLayout
    run: Run
    codec: TextCodec | None = None

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> "ServedModel":
        graph = bundle.manifest.graph
        return cls(graph, bundle.state_layout(), make_run(bundle.graph), bundle.text_codec())

    def answer(
        self, inputs: Mapping[str, np.ndarray], length: np.ndarray, slice_steps: int = 512
    ) -> tuple[Arrays, list[bytes]]:
        """Padded inputs `[B, T, …]` → outputs `[B, T, …]` and packed final states.

        Steps are fed in slices, as a server feeds a long history, which bounds memory.
        """
        rows = [self.layout.initial_row] * len(length)
        parts: list[Arrays] = []
        num_steps = next(iter(inputs.values())).shape[1]
        for start in range(0, num_steps, slice_steps):
            piece = {k: v[:, start : start + slice_steps] for k, v in inputs.items()}
            outputs, rows = self.step(piece, np.clip(length - start, 0, slice_steps), rows)
            parts.append(outputs)
        return {k: np.concatenate([p[k] for p in parts], axis=1) for k in parts[0]}, rows

    def step(
        self, inputs: Mapping[str, np.ndarray], length: np.ndarray, rows: list[bytes]
    ) -> tuple[Arrays, list[bytes]]:
        """One call of the graph from packed `rows`."""
        feeds = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        feeds |= self.layout.gather(rows)
        length_spec = self.graph.input_with("length")
        if length_spec is not None:
            feeds[length_spec.name] = length.astype(length_spec.numpy_dtype)
        answers = self.run(feeds)
        outputs = {spec.name: answers[spec.name] for spec in self.graph.outputs}
        return outputs, self.layout.scatter(answers)


def make_run(graph: bytes, num_threads: int = 1) -> Run:
    """A callable around ONNX Runtime; it keeps every output by name."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    ort_session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in ort_session.get_outputs()]

    def run(feeds: Arrays) -> Arrays:
        return dict(zip(names, ort_session.run(names, feeds), strict=True))

    return run
