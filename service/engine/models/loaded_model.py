"""One version of a model, ready to run."""

from dataclasses import dataclass, field

import numpy as np

from service.contract.calls import ObservationLayout
from service.contract.characters import Codec
from service.contract.manifest import Manifest
from service.contract.state import StateLayout
from service.contract.tensors import InputSpec
from service.engine.graph.batch_planner import BatchLimits
from service.engine.graph.runner import Runner
from service.engine.graph.vector_runner import steps_of_tokens
from service.stores.record.record import ModelFingerprint


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class LoadedModel:
    """One version of a model, ready to run, with what every step needs of its manifest.

    Each is equal to itself alone: the same bundle loaded again is another one.
    """

    manifest: Manifest
    layout: StateLayout
    runner: Runner
    codec: Codec | None
    name: str = field(init=False)
    version: str = field(init=False)
    fingerprint: ModelFingerprint = field(init=False)
    x: InputSpec | None = field(init=False)
    time: InputSpec | None = field(init=False)
    tokens: InputSpec | None = field(init=False)
    num_values: int = field(init=False)
    frequency_s: int = field(init=False)
    observations: ObservationLayout | None = field(init=False)
    row_width: int = field(init=False)
    """Of one observation, as the runner takes it: its values, or the bytes of packed tensors."""
    constants: tuple[InputSpec, ...] = field(init=False)

    def __post_init__(self) -> None:
        graph, forecast = self.manifest.graph, self.manifest.forecast
        x = graph.input_with("x")
        num_values = x.concrete(1)[-1] if x else 0
        observations = ObservationLayout(graph) if graph.tensors else None
        row_width = observations.observation.itemsize if observations else num_values
        for name, value in (
            ("name", self.manifest.name),
            ("version", self.manifest.version),
            ("fingerprint", self._fingerprint()),
            ("x", x),
            ("num_values", num_values),
            ("time", graph.input_with("time")),
            ("tokens", graph.input_with("tokens")),
            ("frequency_s", forecast.frequency_s if forecast else 0),
            ("observations", observations),
            ("row_width", row_width),
            ("constants", graph.constants),
        ):
            object.__setattr__(self, name, value)

    @property
    def reads_vectors(self) -> bool:
        """It writes about a vector, which it reads before any text."""
        return self.x is not None and self.tokens is not None

    def steps_of(self, tokens: list[int]) -> np.ndarray:
        """What the runner is given for tokens."""
        assert self.tokens is not None, "the manifest of a model of text names them"
        if self.reads_vectors:
            return steps_of_tokens(tokens, self.num_values)
        return np.array(tokens, self.tokens.dtype)

    def bounded(self, limits: BatchLimits) -> BatchLimits:
        """What one call of this graph can take of `limits`."""
        graph = self.manifest.graph
        return BatchLimits(
            limits.max_rows if graph.takes_rows else 1,
            limits.max_slice_steps if graph.takes_steps else 1,
            limits.max_cells,
            is_ragged=graph.input_with("length") is not None,
        )

    def _fingerprint(self) -> ModelFingerprint:
        manifest = self.manifest
        graph_sha256 = manifest.files[manifest.graph.file]
        return ModelFingerprint(
            manifest.name, manifest.version, self.layout.schema_hash, graph_sha256
        )
