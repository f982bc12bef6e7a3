"""The runner of a graph that was brought along: tensors by name, in whichever axes it has them.

Its values are packed observations, bytes `[T, n]` (see `ObservationLayout`), so that everything
between the API and here treats them like rows.
"""

from collections.abc import Sequence

import numpy as np

from service.contract.calls import Calls, ObservationLayout
from service.contract.graph import GraphSpec
from service.contract.state import StateLayout
from service.engine.graph.ort import ort
from service.engine.graph.runner import Batch, BatchResult, Runner, pad_rows

_BYTE = np.dtype(np.uint8)


class TensorBatch(Batch):
    """A batch with the ends of its inputs that overlap: states that the graph does not see."""

    __slots__ = ("ends",)

    ends: dict[str, np.ndarray]


class TensorRunner(Runner):
    """Runs batches of observations through a graph of the task `tensor`."""

    def __init__(
        self,
        ort_session: ort.InferenceSession,
        graph: GraphSpec,
        layout: StateLayout,
        observations: ObservationLayout,
    ) -> None:
        super().__init__(ort_session, graph, layout)
        self._calls = Calls(graph, layout)
        self._observations = observations

    def stage(
        self,
        values: Sequence[np.ndarray] | np.ndarray,
        states: Sequence[bytes],
        num_steps: Sequence[int],
        first_times: Sequence[int] = (),
        starts: Sequence[int] = (),
        constants: bytes = b"",
    ) -> Batch:
        """As `Runner.stage`, of rows with the same packed constants."""
        longest, lengths = max(num_steps), np.array(num_steps)
        packed = values if isinstance(values, np.ndarray) else pad_rows(values, longest, _BYTE)
        feeds, ends = self._calls.feeds(
            self._observations.unpack(packed),
            states,
            lengths,
            self._observations.unpack_constants(constants),
        )
        num_cells = longest * len(lengths)
        batch = TensorBatch(self._ort_session, self._fetches, feeds, lengths, num_cells)
        batch.ends = ends
        return batch

    def take(self, batch: Batch) -> BatchResult:
        assert isinstance(batch, TensorBatch), "staged here"
        answers = dict(zip(self._fetches, batch.answers, strict=True)) | batch.ends
        return self._result(self._calls.outputs(answers), answers, batch.lengths)
