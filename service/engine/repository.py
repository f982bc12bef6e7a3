"""What is served and what shall be, kept alike while the service runs, in every process.

Rule 1: served is what lies in the folder, but for what was unloaded (`wanted`, in the store).
Rule 2: a word of load or unload is kept in the store first and then carried out here; the watcher
        of every other process carries it out within its period. What is to be done is decided for
        one change at a time; bundles are loaded by tasks beside that, as many as there are, so that
        one that takes long keeps nothing else from being loaded, unloaded or stopped.
Rule 3: the watcher itself only adds: names and versions that are new in the folder, once they lie
        there unchanged for a period. What is served is replaced or taken away by a word alone.
Rule 4: a bundle that cannot be loaded is tried once for each content that it has, is logged, and
        is shown with its reason; whatever else is served is not touched. A name that cannot be read
        is left as it is served.

The application owns it, from `start` to `close`.
"""

import asyncio
from typing import Final, NamedTuple

import structlog

from service.contract.manifest import Manifest
from service.engine.engine import Engine
from service.engine.models.desired_state import VALUE_NAME, DesiredState
from service.engine.models.folder import Content, Found, ModelsFolder
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.loader import reason_of
from service.engine.repository_index import IndexEntry, contents_of, index_of
from service.errors import (
    CarryError,
    ContentionError,
    DeadlineError,
    InvalidInputError,
    ModelNotFoundError,
    StoreUnavailableError,
)

log = structlog.get_logger()

_MAX_LOST_RACES: Final = 50
_REST_AFTER_S: Final = 10.0
"""How long what loads bundles is kept for the next one."""


class _Load(NamedTuple):
    """A bundle that is being loaded, by a task."""

    content: Content
    task: asyncio.Task[None]


class Repository:
    def __init__(
        self,
        engine: Engine,
        folder: ModelsFolder,
        *,
        grace_s: float,
        poll_s: float,
        wait_s: float = 30.0,
    ) -> None:
        """`poll_s` 0: nothing is watched; what is said elsewhere is heard at the next start.

        `wait_s` is how long `load` waits for what it has begun.
        """
        self._engine = engine
        self._registry = engine.registry
        self._folder = folder
        self._grace_s = grace_s
        self._poll_s = poll_s
        self._wait_s = wait_s
        self._wanted = DesiredState()
        self._found: Found = {}
        self._unreadable: dict[str, str] = {}
        self._settled: dict[tuple[str, str], Content] = {}  # as the watcher saw them last
        self._tried: dict[tuple[str, str], Content] = {}
        self._carried_out: dict[str, int] = {}  # the revision of the last word, by name
        self._loads: dict[tuple[str, str], _Load] = {}
        self._gone: dict[str, list[LoadedModel]] = {}  # served until their name's loads are through
        self._resting: asyncio.TimerHandle | None = None
        self._lock = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Let go of what was unloaded before this process has started, and begin to watch.

        The engine has been started with all bundles of the folder, but for those that were late.
        """
        late = self._registry.late
        try:
            await self._look()
            tried = contents_of(self._found)
            self._tried = {place: each for place, each in tried.items() if place not in late}
            await self._hear()
        except CarryError as error:  # the watcher asks again
            log.warning("it is not known which models were unloaded", reason=error.detail)
        else:
            words = self._wanted.models
            self._carried_out = {name: word.revision for name, word in words.items()}
            for name in words:
                self._converge(name, grace_s=0.0)
        for place, content in contents_of(self._found).items():
            if place in late and self._wanted.of(place[0]).wants(place[1]):
                self._begin(place, content)
        if self._poll_s:
            self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop watching; a load that is under way is dropped."""
        tasks = [load.task for load in self._loads.values()]
        tasks += [] if self._watcher is None else [self._watcher]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._resting is not None:
            self._resting.cancel()
        self._folder.close()

    async def load(self, name: str, version: str | None = None) -> None:
        """Serve what lies in the folder under a name: all versions of it, or one.

        What was changed there is loaded anew, what is there no more is unloaded.

        Raises:
            ModelNotFoundError: there is no such bundle.
            InvalidInputError: a bundle was refused, with its reason; the others are served.
            DeadlineError: it is being loaded still.
            StoreUnavailableError: nothing was done.
        """
        async with self._lock:
            await self._look()
            if name in self._unreadable:
                raise InvalidInputError(
                    f"failed to load {name!r}{_of(version)}: {self._unreadable[name]}; let the user"
                    " who serves read it"
                )
            versions = self._found.get(name, {})
            if not versions or (version is not None and version not in versions):
                raise ModelNotFoundError(
                    f"failed to load {name!r}{_of(version)}: there is no such bundle in the folder"
                    f" of models, which has {sorted(versions) or sorted(self._found)}"
                )
            await self._say(name, version, is_wanted=True)
            self._converge(name, self._grace_s)
            asked = [(name, each) for each in versions if version in (None, each)]
            loads = [self._loads[place].task for place in asked if place in self._loads]
        if loads:
            _, unfinished = await asyncio.wait(loads, timeout=self._wait_s)
            if unfinished:
                raise DeadlineError(
                    f"{name!r}{_of(version)} is not loaded after {self._wait_s:g} s and is being"
                    " loaded still: POST /v2/repository/index says what becomes of it",
                    retry_after_s=5,
                )
        refused = [
            reason
            for where, reason in self._registry.refused.items()
            if where in {"/".join(place) for place in asked}
        ]
        if refused:
            raise InvalidInputError(f"failed to load {name!r}{_of(version)}: {'; '.join(refused)}")

    async def unload(self, name: str, version: str | None = None) -> None:
        """Begin nothing with a model, or with one version of it, any more.

        Sessions of it may be stepped until the grace is over.

        Raises:
            ModelNotFoundError: there is no such bundle.
            StoreUnavailableError: nothing was done.
        """
        async with self._lock:
            await self._look()
            loaded = [*self._registry.all(), *self._registry.retiring]
            known = {each.version for each in loaded if each.name == name}
            known |= set(self._found.get(name, {}))
            if not known or (version is not None and version not in known):
                raise ModelNotFoundError(
                    f"failed to unload {name!r}{_of(version)}: it is neither loaded nor in the"
                    " folder of models"
                )
            await self._say(name, version, is_wanted=False)
            self._converge(name, self._grace_s)

    async def look_again(self) -> None:
        """What the watcher does once in its period; return when what it began is loaded.

        Raises:
            CarryError: the folder or the store is away; nothing was done.
        """
        await self._follow()
        tasks = [load.task for load in self._loads.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        async with self._lock:
            await self._look()
            await self._hear()
            models = {model.name for model in self._registry.all()}
            for name in sorted({*self._found, *self._wanted.models, *models}):
                self._converge(name, self._grace_s)
            self._settled = contents_of(self._found)

    def index(self) -> list[IndexEntry]:
        """Every bundle that is loaded or was last seen in the folder."""
        return index_of(
            self._engine.workers, self._registry, self._wanted, self._found, self._loads
        )

    async def _watch(self) -> None:
        trouble = ""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._follow()
                trouble = ""
            except Exception as error:  # the boundary: what is away now may be back later
                if str(error) != trouble:
                    trouble = str(error)
                    log.warning("models are not watched, will try again", reason=trouble)

    def _converge(self, name: str, grace_s: float) -> None:
        """Begin to make what is served of a model what is wanted of it."""
        word, versions = self._wanted.of(name), self._found.get(name, {})
        is_told = self._carried_out.get(name, 0) != word.revision
        if name not in self._unreadable:
            self._forget_trials(name)
            self._begin_due(name, is_told=is_told)
            if is_told:
                models = [each for each in self._registry.all() if each.name == name]
                self._gone[name] = [each for each in models if each.version not in versions]
            self._carried_out[name] = word.revision
        for model in self._registry.all():
            if model.name == name and not word.wants(model.version):
                self._engine.workers.retire(model, grace_s)
        self._retire_gone(name)

    def _forget_trials(self, name: str) -> None:
        """Of what is there no more, or not wanted any more."""
        word, versions = self._wanted.of(name), self._found.get(name, {})
        for place in [each for each in self._tried if each[0] == name]:
            if place[1] not in versions or not word.wants(place[1]):
                del self._tried[place]
                if self._registry.refused.pop("/".join(place), None):
                    self._engine.workers.tell()
        for place, load in list(self._loads.items()):
            if place[0] == name and not (place[1] in versions and word.wants(place[1])):
                del self._loads[place]
                load.task.cancel()

    def _begin_due(self, name: str, *, is_told: bool) -> None:
        for version, content in self._found.get(name, {}).items():
            place = name, version
            is_new = self._registry.find(name, version) is None
            is_other = self._tried.get(place) != content
            is_due = (is_new or is_other) if is_told else (is_new and is_other)
            is_still = is_told or self._settled.get(place) == content
            if self._wanted.of(name).wants(version) and is_due and is_still:
                self._begin(place, content)

    def _begin(self, place: tuple[str, str], content: Content) -> None:
        """Load a bundle by a task, unless that very one is being loaded."""
        before = self._loads.get(place)
        if before is not None:
            if before.content == content:
                return
            before.task.cancel()
        if self._resting is not None:
            self._resting.cancel()
        self._loads[place] = _Load(content, asyncio.create_task(self._load(place, content)))

    async def _load(self, place: tuple[str, str], content: Content) -> None:
        """Serve a bundle, or say why not."""
        where, refused = "/".join(place), self._registry.refused
        try:
            bundle = await self._folder.read(*place)
            model = self._loaded_of(bundle.manifest) or await self._folder.load(bundle)
        except Exception as error:  # the boundary: no bundle may keep the others from being served
            refused[where] = reason_of(error)
            log.warning("bundle refused", bundle=where, reason=str(error))
        else:
            refused.pop(where, None)
            if self._registry.find(*place) is not model:
                self._engine.workers.serve(model, self._grace_s)
                log.info("model loaded", bundle=where, provider=model.runner.provider)
        finally:
            self._end_load(place)
        self._tried[place] = content
        self._engine.workers.tell()

    def _end_load(self, place: tuple[str, str]) -> None:
        load = self._loads.get(place)
        if load is None or load.task is not asyncio.current_task():  # it was dropped
            return
        del self._loads[place]
        self._retire_gone(place[0])
        if not self._loads:
            loop = asyncio.get_running_loop()
            self._resting = loop.call_later(_REST_AFTER_S, self._folder.rest)

    def _retire_gone(self, name: str) -> None:
        """Retire what lies in the folder no more, when what takes its place is served."""
        if any(place[0] == name for place in self._loads):
            return
        for model in self._gone.pop(name, ()):
            if self._registry.find(model.name, model.version) is model:
                self._engine.workers.retire(model, self._grace_s)

    def _loaded_of(self, manifest: Manifest) -> LoadedModel | None:
        """The very bundle, where it is served or retiring."""
        for model in [*self._registry.all(), *self._registry.retiring]:
            if model.manifest.manifest_sha256 == manifest.manifest_sha256:
                return model
        return None

    async def _look(self) -> None:
        try:
            self._found, unreadable = await self._folder.look()
        except OSError as error:
            raise StoreUnavailableError(
                f"the folder of models cannot be read ({error.strerror}); nothing was done",
                retry_after_s=1,
            ) from error
        refused = self._registry.refused
        for name in {*self._unreadable} - {*unreadable}:
            refused.pop(name, None)
        for name, reason in unreadable.items():
            if refused.get(name) != reason:
                refused[name] = reason
                log.warning("models not read", model=name, reason=reason)
        self._unreadable = unreadable

    async def _hear(self) -> None:
        self._wanted = DesiredState.read(await self._engine.store.read_value(VALUE_NAME))

    async def _say(self, name: str, version: str | None, *, is_wanted: bool) -> None:
        store = self._engine.store
        for _ in range(_MAX_LOST_RACES):
            old = await store.read_value(VALUE_NAME)
            wanted = DesiredState.read(old).said(name, version, is_wanted=is_wanted)
            if await store.swap_value(VALUE_NAME, old, wanted.to_bytes()):
                self._wanted = wanted
                return
        raise ContentionError(
            f"{_MAX_LOST_RACES} others loaded or unloaded models first; nothing was done: try"
            " again",
            retry_after_s=1,
        )


def _of(version: str | None) -> str:
    return "" if version is None else f" version {version!r}"
