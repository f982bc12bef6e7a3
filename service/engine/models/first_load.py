"""The bundles of a folder as the service starts: tried out one after another, opened as they come.

Rule 1: a bundle is opened here when the `Verifier` has found it good, while it tries the next.
Rule 2: the start does not wait for a bundle that has been tried for `patience_s`: it is *late*, and
        the repository loads it while the others serve.
"""

import threading
import time
from collections import deque
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from service.contract.bundle import read_bundle
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.loader import load_model
from service.engine.models.registry import Registry, list_bundles, log_loaded, refuse
from service.engine.models.verifier import Verification, Verifier

log = structlog.get_logger()

PATIENCE_S: Final = 5.0
_AT_ONCE: Final = 8
_LOOK_S: Final = 0.1


def load_folder(
    folder: Path,
    provider: str,
    num_threads: int,
    verifier: Verifier,
    patience_s: float = PATIENCE_S,
) -> Registry:
    """Load every `<folder>/<name>/<version>/`; `provider` is one that was resolved.

    Raises:
        StartUpError: the folder cannot be read.
    """
    paths, refused = list_bundles(folder)
    models: list[LoadedModel] = []
    outcomes = _Outcomes(paths, verifier, patience_s)
    for path, outcome in iter(outcomes.next, None):
        if isinstance(outcome, Exception):
            refuse(refused, path, outcome)
            continue
        try:
            bundle = read_bundle(path, outcome)
            models.append(load_model(bundle, provider, num_threads, is_checked=True))
        except Exception as error:  # the boundary: no bundle may keep the others from being served
            refuse(refused, path, error)
        else:
            log_loaded(models[-1])
    late = {(path.parent.name, path.name) for path in outcomes.late}
    for name, version in sorted(late):
        log.warning("bundle is slow, the start goes on without it", bundle=f"{name}/{version}")
    if not models:
        log.warning("no model is loaded: not ready", models=str(folder), num_refused=len(refused))
    return Registry(models, refused, provider, late)


class _Outcomes:
    """Bundles with what became of their trial, in the order in which they were through."""

    def __init__(self, paths: list[Path], verifier: Verifier, patience_s: float) -> None:
        self.late: list[Path] = []
        self._waiting = deque(paths)
        self._verifier = verifier
        self._patience_s = patience_s
        self._running: dict[Path, Verification] = {}
        self._done: SimpleQueue[tuple[Path, str | Exception]] = SimpleQueue()

    def next(self) -> tuple[Path, str | Exception] | None:
        """A bundle and its digest, or why it is refused; None when there are no more."""
        while self._running or self._waiting:
            while self._waiting and len(self._running) < _AT_ONCE:
                self._begin(self._waiting.popleft())
            try:
                path, outcome = self._done.get(timeout=_LOOK_S)
            except Empty:
                self._leave_late_ones()
                continue
            if self._running.pop(path, None) is not None:  # else it came when it was late
                return path, outcome
        return None

    def _begin(self, path: Path) -> None:
        verification = self._running[path] = Verification(self._verifier, path)

        def run() -> None:
            try:
                outcome: str | Exception = verification.run()
            except Exception as error:
                outcome = error
            self._done.put((path, outcome))

        # Daemons: each ends with its trial, which has a limit, or with this process.
        threading.Thread(target=run, name="first-load", daemon=True).start()

    def _leave_late_ones(self) -> None:
        now = time.monotonic()
        for path, verification in list(self._running.items()):
            began_s = verification.began_s
            if began_s is not None and now - began_s > self._patience_s:
                del self._running[path]
                self.late.append(path)
                verification.cancel()
