"""The folder of bundles, `<name>/<version>/` each: what lies there, and how it becomes a model.

Reading, checking and warming up are done in one thread, one bundle after another, so that the event
loop and the graphs that serve go on. The repository owns it, and closes it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from service.contract.bundle import Bundle, read_bundle
from service.engine.loaded_model import LoadedModel
from service.engine.registry import bundle_folders, load_model

T = TypeVar("T")

Content = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of each file: another one where a bundle was changed."""

Found = dict[str, dict[str, Content]]
"""By name and version, as the folder lists them: nothing else is ever read."""


class ModelsFolder:
    def __init__(self, path: Path, provider: str, num_threads: int) -> None:
        self._path = path
        self._provider = provider
        self._num_threads = num_threads
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")

    async def look(self) -> Found:
        """Raises OSError where it cannot be read."""
        return await self._call(self._look)

    async def read(self, name: str, version: str) -> Bundle:
        """The checked bytes of a bundle that was found.

        Raises:
            BundleError: it is not what its manifest says.
        """
        return await self._call(lambda: read_bundle(self._path / name / version))

    async def load(self, bundle: Bundle) -> LoadedModel:
        """As `load_model`."""
        return await self._call(lambda: load_model(bundle, self._provider, self._num_threads))

    def close(self) -> None:
        """Let go of the thread; what it is about is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look(self) -> Found:
        found: Found = {}
        for path in bundle_folders(self._path):
            found.setdefault(path.parent.name, {})[path.name] = _content_of(path)
        return found

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _content_of(path: Path) -> Content:
    """Of a bundle that cannot be looked at: nothing. Whoever reads it is told why."""
    try:
        return tuple(
            (file.name, status.st_size, status.st_mtime_ns)
            for file in sorted(path.iterdir())
            for status in [file.lstat()]  # a link may lead nowhere
        )
    except OSError:
        return ()
