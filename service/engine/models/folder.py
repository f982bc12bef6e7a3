"""The folder of bundles, `<name>/<version>/` each: what lies there, and how it becomes a model.

Rule 1: the folder is looked at in a thread; every bundle is tried out, read and opened in a thread
        of its own, so that the event loop, the graphs that serve and other bundles go on.
Rule 2: all of them are daemons: none keeps the process from ending, whatever it waits for.

The repository owns it, and closes it.
"""

import asyncio
from pathlib import Path
from typing import Final, NamedTuple

from service.contract.bundle import MAX_FILES, Bundle, read_bundle
from service.contract.errors import BundleError
from service.engine.daemon_thread import in_daemon
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.loader import load_model
from service.engine.models.registry import bundle_folders
from service.engine.models.verifier import Verification, Verifier

LOAD_TIMEOUT_S: Final = 60.0

Content = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of each file: another one where a bundle was changed."""

Found = dict[str, dict[str, Content]]
"""By name and version, as the folder lists them: nothing else is ever read."""


class FolderScan(NamedTuple):
    """What lies in the folder, and which names in it cannot be read, with the reason."""

    found: Found
    unreadable: dict[str, str]


class ModelsFolder:
    def __init__(
        self,
        path: Path,
        provider: str,
        num_threads: int,
        verifier: Verifier | None = None,
        limit_s: float = LOAD_TIMEOUT_S,
    ) -> None:
        """Without a verifier bundles are trusted, and tried out as they are opened."""
        self._path = path
        self._provider = provider
        self._num_threads = num_threads
        self._verifier = verifier
        self._limit_s = limit_s

    async def look(self) -> FolderScan:
        """Raises OSError where it cannot be read."""
        return await in_daemon("models-look", self._look)

    async def read(self, name: str, version: str) -> Bundle:
        """The checked bytes of a bundle that was found, and that was tried out.

        Raises:
            BundleError: it is not what its manifest says, or not what may be served.
        """
        path, thread = self._path / name / version, f"models-{name}-{version}"
        if self._verifier is None:
            return await in_daemon(thread, lambda: read_bundle(path))
        verification = Verification(self._verifier, path)
        try:
            return await in_daemon(thread, lambda: read_bundle(path, verification.run()))
        finally:
            verification.cancel()  # where it is through, nothing happens

    async def load(self, bundle: Bundle) -> LoadedModel:
        """As `load_model`, of a bundle that was `read`."""
        is_checked, manifest = self._verifier is not None, bundle.manifest
        header = in_daemon(
            f"models-{manifest.name}-{manifest.version}",
            lambda: load_model(bundle, self._provider, self._num_threads, is_checked=is_checked),
        )
        try:
            async with asyncio.timeout(self._limit_s):
                return await header
        except TimeoutError:  # it ended where it was tried out; here its thread is left behind
            raise BundleError(
                f"it was not opened in {self._limit_s:g} s: load it again, or raise"
                " CARRY_LOAD_TIMEOUT_S"
            ) from None

    def rest(self) -> None:
        """Nothing is being loaded: end what would be needed for it."""
        if self._verifier is not None:
            self._verifier.rest()

    def close(self) -> None:
        """Loads that are running end with their callers; nothing else is held."""
        self.rest()

    def _look(self) -> FolderScan:
        found: Found = {}
        paths, unreadable = bundle_folders(self._path)
        for path in paths:
            found.setdefault(path.parent.name, {})[path.name] = _content_of(path)
        return FolderScan(found, unreadable)


def _content_of(path: Path) -> Content:
    """Of a bundle that cannot be looked at: nothing. Whoever reads it is told why."""
    content = []
    try:
        for file in path.iterdir():
            status = file.lstat()  # a link may lead nowhere
            content.append((file.name, status.st_size, status.st_mtime_ns))
            if len(content) > MAX_FILES:  # it will be refused
                break
    except OSError:
        return ()
    return tuple(sorted(content))
