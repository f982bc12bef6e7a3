"""From a folder of bundles to loaded, verified and warmed models.

A bundle that fails any check is refused with its reason; the others go on serving.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog

from service.contract.bundle import Bundle, read_bundle
from service.contract.calls import ObservationLayout
from service.contract.characters import Codec
from service.contract.errors import ContractError
from service.contract.golden import check_golden
from service.contract.manifest import Manifest
from service.contract.state import StateLayout
from service.contract.tensors import InputSpec
from service.engine.batcher import BatchLimits
from service.engine.runner import Runner, check_signature, open_ort_session, resolve_provider
from service.engine.tensor_runner import TensorRunner
from service.engine.vector_runner import VectorRunner, steps_of_tokens
from service.errors import ModelNotFoundError, StartUpError, VersionGoneError
from service.stores.record import Opening, Origin

log = structlog.get_logger()

_WARM_UP_ROWS = (1, 8, 32, 128)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One version of a model, ready to run, with what every step needs of its manifest."""

    manifest: Manifest
    layout: StateLayout
    runner: Runner
    codec: Codec | None
    name: str = field(init=False)
    version: str = field(init=False)
    origin: Origin = field(init=False)
    x: InputSpec | None = field(init=False)
    time: InputSpec | None = field(init=False)
    tokens: InputSpec | None = field(init=False)
    num_values: int = field(init=False)
    frequency_s: int = field(init=False)
    observations: ObservationLayout | None = field(init=False)
    constants: tuple[InputSpec, ...] = field(init=False)

    def __post_init__(self) -> None:
        graph, forecast = self.manifest.graph, self.manifest.forecast
        x = graph.input_with("x")
        for name, value in (
            ("name", self.manifest.name),
            ("version", self.manifest.version),
            ("origin", self._origin()),
            ("x", x),
            ("num_values", x.concrete(1)[-1] if x else 0),
            ("time", graph.input_with("time")),
            ("tokens", graph.input_with("tokens")),
            ("frequency_s", forecast.frequency_s if forecast else 0),
            ("observations", ObservationLayout(graph) if graph.tensors else None),
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

    def _origin(self) -> Origin:
        manifest = self.manifest
        graph_sha256 = manifest.files[manifest.graph.file]
        return Origin(manifest.name, manifest.version, self.layout.schema_hash, graph_sha256)


class Registry:
    """The models that this process serves, and the bundles that it refused."""

    def __init__(self, models: list[LoadedModel], refused: dict[str, str], provider: str) -> None:
        self.refused = refused
        self.provider = provider
        self._models: dict[str, dict[str, LoadedModel]] = {}
        for model in models:
            self._models.setdefault(model.name, {})[model.version] = model

    def all(self) -> list[LoadedModel]:
        """Every loaded version, by name and then by number."""
        return [
            versions[version]
            for _, versions in sorted(self._models.items())
            for version in sorted(versions, key=int)
        ]

    def versions(self, name: str) -> list[LoadedModel]:
        """Every loaded version of one model, oldest first.

        Raises:
            ModelNotFoundError: no version of it is loaded.
        """
        found = self._models.get(name)
        if not found:
            raise ModelNotFoundError(
                f"no model {name!r}; loaded are {sorted(self._models)} (see GET /v1/models)"
            )
        return [found[version] for version in sorted(found, key=int)]

    def get(self, name: str, version: str | None = None) -> LoadedModel:
        """One version of a model; the newest, which is the default, where none is named.

        Raises:
            ModelNotFoundError: no such model or version.
        """
        versions = self.versions(name)
        if version is None:
            return versions[-1]
        for model in versions:
            if model.version == version:
                return model
        loaded = [model.version for model in versions]
        raise ModelNotFoundError(f"model {name!r} has no version {version!r}; loaded are {loaded}")

    def find(self, name: str, version: str) -> LoadedModel | None:
        return self._models.get(name, {}).get(version)

    def get_for_session(self, opening: Opening) -> LoadedModel:
        """The version that a session was opened with.

        Raises:
            VersionGoneError: it is not loaded any more, or is not the same any more.
        """
        name, version = opening.model, opening.version
        model = self.find(name, version)
        if model is None or model.origin.graph_sha256 != opening.origin.graph_sha256:
            loaded = sorted(self._models.get(name, {}), key=int)
            changed = ", with other weights" if model else ""
            raise VersionGoneError(
                f"the session belongs to model {name!r} version {version}, which is not loaded as"
                f" it was (loaded: {loaded}{changed}): a state means nothing to other weights; load"
                " that bundle again, hand the session on by POST /v1/sessions/{session}/upgrade, or"
                " open a new one"
            )
        return model


def load_registry(folder: Path, provider: str, num_threads: int) -> Registry:
    """Load every `<folder>/<name>/<version>/`.

    Raises:
        StartUpError: the folder does not exist, or the provider is not installed.
    """
    if not folder.is_dir():
        raise StartUpError(
            f"CARRY_MODELS is {str(folder)!r}: expected a folder of bundles <name>/<version>/"
        )
    chosen = resolve_provider(provider)
    models: list[LoadedModel] = []
    refused: dict[str, str] = {}
    for path in _bundle_folders(folder):
        where = f"{path.parent.name}/{path.name}"
        try:
            models.append(load_model(read_bundle(path), chosen, num_threads))
        except Exception as error:  # the boundary: no bundle may keep the others from being served
            refused[where] = _reason(error)
            log.warning("bundle refused", bundle=where, reason=str(error))
        else:
            log.info("model loaded", bundle=where, provider=models[-1].runner.provider)
    if not models:
        log.warning("no model is loaded: not ready", models=str(folder), num_refused=len(refused))
    return Registry(models, refused, chosen)


def load_model(bundle: Bundle, provider: str = "cpu", num_threads: int = 1) -> LoadedModel:
    """Open the graph, compare it with the manifest, reproduce the golden run, warm it up.

    Raises:
        ContractError: with what was expected and what was found.
    """
    manifest = bundle.manifest
    layout = bundle.state_layout()
    ort_session = open_ort_session(bundle.graph, provider, num_threads)
    check_signature(ort_session, manifest.graph)
    graph = manifest.graph
    runner: Runner
    if graph.tensors:
        runner = TensorRunner(ort_session, graph, layout, ObservationLayout(graph))
    elif graph.input_with("x") and graph.input_with("tokens"):
        runner = VectorRunner(ort_session, graph, layout)
    else:
        frequency_s = manifest.forecast.frequency_s if manifest.forecast else 0
        runner = Runner(ort_session, graph, layout, frequency_s)
    check_golden(bundle, runner.call)
    model = LoadedModel(manifest, layout, runner, bundle.text_codec())
    _warm_up(model)
    return model


def _reason(error: Exception) -> str:
    """Why a bundle was refused, without a path of the server."""
    if isinstance(error, ContractError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return f"cannot be loaded ({type(error).__name__}); the log says more: export it again"


def _warm_up(model: LoadedModel) -> None:
    """Run batches of several sizes, each of rows of one step."""
    values = _nothing_much(model)
    for num_rows in _WARM_UP_ROWS if model.manifest.graph.takes_rows else (1,):
        states = [model.layout.initial_row] * num_rows
        ones, zeros = [1] * num_rows, [0] * num_rows
        batch = model.runner.stage([values] * num_rows, states, ones, zeros, zeros)
        batch.run()
        model.runner.take(batch)


def _nothing_much(model: LoadedModel) -> np.ndarray:
    """One observation of nothing but zeros."""
    if model.tokens is not None:
        return model.steps_of([0])
    if model.x is not None:
        return np.zeros(model.x.concrete(1)[1:], model.x.numpy_dtype)
    assert model.observations is not None, "the manifest asks for x, tokens or tensors"
    return np.zeros((1, model.observations.observation.itemsize), np.uint8)


def _bundle_folders(folder: Path) -> list[Path]:
    return [
        version
        for name in sorted(folder.iterdir())
        if name.is_dir() and not name.name.startswith(".")
        for version in sorted(name.iterdir())
        if version.is_dir() and not version.name.startswith(".")
    ]
