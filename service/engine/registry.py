"""From a folder of bundles to loaded, verified and warmed models.

A bundle that fails any check is refused with its reason; the others go on serving.
"""

from pathlib import Path

import numpy as np
import structlog

from service.contract.bundle import Bundle, read_bundle
from service.contract.calls import ObservationLayout
from service.contract.errors import ContractError
from service.contract.golden import check_golden
from service.engine.loaded_model import LoadedModel
from service.engine.runner import Runner, check_signature, open_ort_session, resolve_provider
from service.engine.tensor_runner import TensorRunner
from service.engine.vector_runner import VectorRunner
from service.errors import ModelNotFoundError, StartUpError, VersionGoneError
from service.stores.record import Opening

log = structlog.get_logger()

_WARM_UP_ROWS = (1, 8, 32, 128)


class Registry:
    """The models that this process serves, and the bundles that it refused.

    A model that is being unloaded is *retiring*: sessions of it may be stepped, and nothing else
    begins with it. When that time is over it is *leaving*, until what was begun is answered.
    """

    def __init__(self, models: list[LoadedModel], refused: dict[str, str], provider: str) -> None:
        self.refused = refused
        self.provider = provider
        self._models: dict[str, dict[str, LoadedModel]] = {}
        self._retiring: list[LoadedModel] = []
        self._leaving: list[LoadedModel] = []
        for model in models:
            self.add(model)

    def add(self, model: LoadedModel) -> LoadedModel | None:
        """Serve a model, which may have been retiring; the one whose place it takes."""
        if model in self._retiring:
            self._retiring.remove(model)
        versions = self._models.setdefault(model.name, {})
        replaced = versions.get(model.version)
        versions[model.version] = model
        return replaced

    def retire(self, model: LoadedModel) -> None:
        """Let nothing but steps begin with a model."""
        self._retiring.append(model)
        versions = self._models[model.name]
        if versions[model.version] is model:  # it may have been replaced
            del versions[model.version]
            if not versions:
                del self._models[model.name]

    def leave(self, model: LoadedModel) -> None:
        """Let nothing begin with a retiring model."""
        self._retiring.remove(model)
        self._leaving.append(model)

    def forget(self, model: LoadedModel) -> None:
        """A leaving model is gone."""
        self._leaving.remove(model)

    @property
    def retiring(self) -> list[LoadedModel]:
        """In the order in which they were retired."""
        return list(self._retiring)

    @property
    def leaving(self) -> list[LoadedModel]:
        return list(self._leaving)

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

    def find_for_session(self, opening: Opening) -> LoadedModel | None:
        """The version that a session was opened with, if it may be stepped."""
        model = self.find(opening.model, opening.version)
        if model is not None and model.origin == opening.origin:
            return model
        return next((each for each in self._retiring if each.origin == opening.origin), None)

    def get_for_session(self, opening: Opening) -> LoadedModel:
        """As `find_for_session`.

        Raises:
            VersionGoneError: it is not loaded any more, or is not the same any more.
        """
        model = self.find_for_session(opening)
        if model is None:
            name, version = opening.model, opening.version
            loaded = sorted(self._models.get(name, {}), key=int)
            changed = ", with other weights or states" if version in loaded else ""
            raise VersionGoneError(
                f"the session belongs to model {name!r} version {version}, which is not loaded as"
                f" it was (loaded: {loaded}{changed}): a state means nothing to other weights; load"
                " that bundle again, hand the session on by POST /v1/sessions/{session}/upgrade"
                ' with "policy": "replay" (of the observations that it keeps), or open a new one'
            )
        return model

    def get_for_reply(self, opening: Opening) -> LoadedModel:
        """As `get_for_session`, of a model that is leaving as well: it has made a reply."""
        for model in self._leaving:
            if model.origin == opening.origin:
                return model
        return self.get_for_session(opening)


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
    for path in bundle_folders(folder):
        where = f"{path.parent.name}/{path.name}"
        try:
            models.append(load_model(read_bundle(path), chosen, num_threads))
        except Exception as error:  # the boundary: no bundle may keep the others from being served
            refused[where] = reason_of(error)
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


def reason_of(error: Exception) -> str:
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


def bundle_folders(folder: Path) -> list[Path]:
    """Every `<folder>/<name>/<version>/`."""
    return [
        version
        for name in sorted(folder.iterdir())
        if name.is_dir() and not name.name.startswith(".")
        for version in sorted(name.iterdir())
        if version.is_dir() and not version.name.startswith(".")
    ]
