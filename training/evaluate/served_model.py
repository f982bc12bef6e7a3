"""An exported graph as a server sees it: bytes, a state layout, and a call.

Evaluations go through here, so that a card's figures are those of the graph that is shipped.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from service.contract.bundle import Bundle
from service.contract.calls import Arrays, Run
from service.contract.characters import Codec
from service.contract.golden import call_in_cuts, call_once
from service.contract.graph import GraphSpec
from service.contract.state import StateLayout
from training.ort import ort


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Feeds sequences from the initial state and gives back every step's answers."""

    graph: GraphSpec
    layout: StateLayout
    run: Run
    codec: Codec | None = None

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
        num_steps = next(iter(inputs.values())).shape[1]
        cuts = [slice_steps] * math.ceil(num_steps / slice_steps)
        return call_in_cuts(self.graph, self.layout, self.run, inputs, length, rows, cuts)

    def step(
        self, inputs: Mapping[str, np.ndarray], length: np.ndarray, rows: list[bytes]
    ) -> tuple[Arrays, list[bytes]]:
        """One call of the graph from packed `rows`."""
        return call_once(self.graph, self.layout, self.run, inputs, length, rows)


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
