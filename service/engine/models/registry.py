"""The models that are served, and the folder that they come from.

A bundle that fails any check is refused with its reason; the others go on serving.
"""

import os
from collections.abc import Collection
from pathlib import Path

import structlog

from service.contract.bundle import read_bundle
from service.engine.graph.runner import resolve_provider
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.loader import load_model, reason_of
from service.errors import ModelNotFoundError, StartUpError, VersionGoneError
from service.stores.record.record import SessionHeader
from service.wordings import case

log = structlog.get_logger()


class Registry:
    """The models that this process serves, and the bundles that it refused.

    A model that is being unloaded is *retiring*: sessions of it may be stepped, and nothing else
    begins with it. When that time is over it is *leaving*, until what was begun is answered.
    """

    def __init__(
        self,
        models: list[LoadedModel],
        refused: dict[str, str],
        provider: str,
        late: Collection[tuple[str, str]] = (),
    ) -> None:
        """`late` are the names and versions of bundles that the start did not wait for."""
        self.refused = refused
        self.provider = provider
        self.late = frozenset(late)
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
                case("model-not-found", model=name, loaded=sorted(self._models))
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

    def find_for_session(self, header: SessionHeader) -> LoadedModel | None:
        """The version that a session was opened with, if it may be stepped."""
        model = self.find(header.model, header.version)
        if model is not None and model.fingerprint == header.fingerprint:
            return model
        return next(
            (each for each in self._retiring if each.fingerprint == header.fingerprint), None
        )

    def get_for_session(self, header: SessionHeader) -> LoadedModel:
        """As `find_for_session`.

        Raises:
            VersionGoneError: it is not loaded any more, or is not the same any more.
        """
        model = self.find_for_session(header)
        if model is None:
            name, version = header.model, header.version
            loaded = sorted(self._models.get(name, {}), key=int)
            changed = ", with other weights or states" if version in loaded else ""
            raise VersionGoneError(
                case("version-gone", model=name, version=version, loaded=loaded, changed=changed)
            )
        return model

    def get_for_reply(self, header: SessionHeader) -> LoadedModel:
        """As `get_for_session`, of a model that is leaving as well: it has made a reply."""
        for model in self._leaving:
            if model.fingerprint == header.fingerprint:
                return model
        return self.get_for_session(header)


def load_registry(folder: Path, provider: str, num_threads: int) -> Registry:
    """Load every `<folder>/<name>/<version>/` in this process, which trusts them.

    Raises:
        StartUpError: the folder cannot be read, or the provider is not installed.
    """
    chosen = resolve_provider(provider)
    models: list[LoadedModel] = []
    paths, refused = list_bundles(folder)
    for path in paths:
        try:
            models.append(load_model(read_bundle(path), chosen, num_threads))
        except Exception as error:  # the boundary: no bundle may keep the others from being served
            refuse(refused, path, error)
        else:
            log_loaded(models[-1])
    return Registry(models, refused, chosen)


def list_bundles(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Every `<folder>/<name>/<version>/`, and which names cannot be read, with the reason.

    Raises:
        StartUpError: the folder cannot be read.
    """
    if not folder.is_dir():
        raise StartUpError(
            f"CARRY_MODELS is {str(folder)!r}: expected a folder of bundles <name>/<version>/"
        )
    try:
        paths, unreadable = bundle_folders(folder)
    except OSError as error:
        raise StartUpError(
            f"CARRY_MODELS is {str(folder)!r}, which cannot be read ({error.strerror}): let the"
            " user who serves read it"
        ) from None
    for name, reason in unreadable.items():
        log.warning("models not read", model=name, reason=reason)
    return paths, unreadable


def refuse(refused: dict[str, str], path: Path, error: Exception) -> None:
    """Note why a bundle is not served."""
    where = f"{path.parent.name}/{path.name}"
    refused[where] = reason_of(error)
    log.warning("bundle refused", bundle=where, reason=str(error))


def log_loaded(model: LoadedModel) -> None:
    where = f"{model.name}/{model.version}"
    log.info("model loaded", bundle=where, provider=model.runner.provider)


def bundle_folders(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Every `<folder>/<name>/<version>/`, and the names that cannot be read, with the reason.

    Raises:
        OSError: the folder itself cannot be read.
    """
    found: list[Path] = []
    unreadable: dict[str, str] = {}
    for name in sorted(folder.iterdir()):
        try:
            found += _folders_in(name) if name.is_dir() and not name.name.startswith(".") else []
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            unreadable[shown_name(name)] = f"its folder cannot be read: {reason}"
    return found, unreadable


def _folders_in(folder: Path) -> list[Path]:
    names = sorted(folder.iterdir())
    found = [each for each in names if each.is_dir() and not each.name.startswith(".")]
    for each in found:
        if shown_name(each) != each.name or shown_name(folder) != folder.name:
            raise ValueError("expected names in UTF-8")
    return found


def shown_name(path: Path) -> str:
    """The name of a folder, as it can be shown whatever bytes it has."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")
