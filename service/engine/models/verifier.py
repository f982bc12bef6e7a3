"""Bundles, tried out in a process of their own before this one opens them.

Rule 1: whatever a bundle does (run for ever, take all memory, crash a library) it does to a process
        that holds nothing else. After `limit_s` that process is ended, and the bundle is refused.
Rule 2: one bundle is tried at a time, by one process, as long as each takes less than `_PROMPT_S`.
        One that takes longer goes on, and the next is tried by another process meanwhile: so a slow
        bundle costs others a second, and a hundred small ones cost one process.
Rule 3: at most `_MAX_PROCESSES` are alive. `rest` ends those that have nothing to do.
Rule 4: a bundle is what its manifest names by hash. What was found good is not tried again.

Methods may be called from any thread. Whoever makes it closes it.
"""

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import service
from service.contract.bundle import read_manifest
from service.contract.errors import BundleError

_PROMPT_S: Final = 1.0
_START_S: Final = 60.0
"""For a process to be ready, however busy the machine is."""
_MAX_PROCESSES: Final = 8
_WAKE_S: Final = 0.1
"""How soon a bundle that waits for its turn notices that it was cancelled."""
_MAX_ANSWER_BYTES: Final = 64 * 1024


class Cancelled(Exception):  # noqa: N818 -- nothing is wrong
    """Nobody wants to know any more."""


class Verification:
    """One bundle that is tried out. `cancel` may be called from any thread, at any time."""

    def __init__(self, verifier: "Verifier", folder: Path) -> None:
        self.folder = folder
        self.began_s: float | None = None
        """When a process that was ready was given it."""
        self.is_cancelled = False
        self._verifier = verifier
        self._child: _Child | None = None

    def run(self) -> str:
        """Return its `manifest_digest` when it is known to be good.

        Raises:
            BundleError: it is not, with the reason.
            OSError: it cannot be read.
            Cancelled: see there.
        """
        digest = hashlib.sha256(read_manifest(self.folder)).hexdigest()
        if not self._verifier.knows(digest):
            digest = self._verifier.tried(self)
        return digest

    def cancel(self) -> None:
        self.is_cancelled = True
        child = self._child
        if child is not None:
            child.kill()

    def given_to(self, child: "_Child | None") -> None:
        """Which process has it now."""
        self._child = child
        if self.is_cancelled and child is not None:
            child.kill()

    def require_wanted(self) -> None:
        if self.is_cancelled:
            raise Cancelled


class Verifier:
    """The processes that try bundles out, and what they found good."""

    def __init__(self, provider: str, num_threads: int, limit_s: float) -> None:
        self._provider = provider
        self._num_threads = num_threads
        self._limit_s = limit_s
        self._task = threading.Semaphore(1)
        self._room = threading.Semaphore(_MAX_PROCESSES)
        self._lock = threading.Lock()  # of the three below
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        self._is_closed = False
        self._good: set[str] = set()

    def start(self) -> None:
        """Start a process, which gets ready while its owner does something else."""
        with suppress(BundleError):  # the first bundle is told
            child = self._take()
            with self._lock:
                self._idle.append(child)

    def knows(self, digest: str) -> bool:
        return digest in self._good

    def rest(self) -> None:
        """End the processes that have nothing to do."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            self._discard(child)

    def close(self) -> None:
        """End every process; what is being tried is refused. None is started after that."""
        with self._lock:
            self._is_closed = True
            children = list(self._children)
        for child in children:
            child.kill()
        self.rest()

    def tried(self, verification: Verification) -> str:
        """As `Verification.run`, for one that is not known."""
        task = _Turn(self._task)
        _acquire(self._room, verification)
        try:
            task.take(verification)
            answer = self._asked(verification, task.give)
        finally:
            task.give()
            self._room.release()
        if "refused" in answer:
            raise BundleError(str(answer["refused"]))
        digest = str(answer["digest"])
        self._good.add(digest)
        return digest

    def _asked(self, verification: Verification, on_slow: Callable[[], None]) -> dict[str, Any]:
        while True:
            child = self._take()
            was_used = child.was_used
            verification.given_to(child)
            try:
                child.get_ready()
                verification.began_s = time.monotonic()
                answer = child.ask(self._question(verification.folder), self._limit_s, on_slow)
            except _EndedError as end:
                self._discard(child)
                verification.require_wanted()
                if was_used:  # it may have been what others left behind, or idle and gone
                    continue
                raise BundleError(end.reason) from None
            except BaseException:
                self._discard(child)
                raise
            finally:
                verification.given_to(None)
            with self._lock:
                self._idle.append(child)
            return answer

    def _question(self, folder: Path) -> bytes:
        asked = {
            "folder": os.fspath(folder.absolute()),
            "limit_s": self._limit_s,
            "num_threads": self._num_threads,
        }
        return json.dumps(asked).encode() + b"\n"

    def _take(self) -> "_Child":
        """An idle process, or a new one."""
        with self._lock:  # held as it starts, so that `close` finds it
            if self._is_closed:
                raise Cancelled
            if self._idle:
                return self._idle.pop()
            child = _Child(self._provider)
            self._children.add(child)
        return child

    def _discard(self, child: "_Child") -> None:
        child.end()
        with self._lock:
            self._children.discard(child)


class _Turn:
    """Held by who is tried, until it is through or takes long."""

    def __init__(self, task: threading.Semaphore) -> None:
        self._task = task
        self._has_it = False

    def take(self, verification: Verification) -> None:
        _acquire(self._task, verification)
        self._has_it = True

    def give(self) -> None:
        if self._has_it:
            self._has_it = False
            self._task.release()


def _acquire(semaphore: threading.Semaphore, verification: Verification) -> None:
    while not semaphore.acquire(timeout=_WAKE_S):
        verification.require_wanted()


class _EndedError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Child:
    """One process. It is asked by one thread at a time; any may `kill` it, one ends it."""

    def __init__(self, provider: str) -> None:
        self.was_used = False
        self._is_ready = False
        self._received = b""
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- a module of ours
                [sys.executable, "-m", "service.engine.models.verifier_process", provider],
                cwd=Path(service.__file__).parents[1],  # first on the path of `-m`: the same code
                env=os.environ | {"RUST_BACKTRACE": "0"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            raise BundleError(
                f"no process could be started to try it ({error.strerror}): load it again"
            ) from None

    def get_ready(self) -> None:
        """Raises _EndedError where it does not start."""
        if not self._is_ready:
            late = f"the process that tries bundles did not start in {_START_S:g} s: load it again"
            self._line(_START_S, late)
            self._is_ready = True

    def ask(self, question: bytes, limit_s: float, on_slow: Callable[[], None]) -> dict[str, Any]:
        """The answer; `on_slow` is called once it does not come promptly.

        Raises:
            _EndedError: the process ended, or was ended because its time was up.
        """
        assert self._process.stdin is not None, "a pipe"
        self.was_used = True
        try:
            self._process.stdin.write(question)
        except OSError:
            raise self._ended() from None
        late = (
            f"it was not tried out in {limit_s:g} s: expected a graph that ends; export it again,"
            " or raise CARRY_LOAD_TIMEOUT_S where it is only slow"
        )
        with suppress(TimeoutError):
            return dict(json.loads(self._read(min(_PROMPT_S, limit_s))))
        on_slow()
        return dict(json.loads(self._line(limit_s - _PROMPT_S, late)))

    def _line(self, seconds: float, late: str) -> bytes:
        try:
            return self._read(seconds)
        except TimeoutError:
            self.kill()
            raise _EndedError(late) from None

    def _read(self, seconds: float) -> bytes:
        assert self._process.stdout is not None, "a pipe"
        descriptor = self._process.stdout.fileno()
        poll, ends_s = select.poll(), time.monotonic() + seconds
        poll.register(descriptor, select.POLLIN)
        while b"\n" not in self._received:
            left_s = ends_s - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError
            part = os.read(descriptor, _MAX_ANSWER_BYTES)
            if not part or len(self._received) > _MAX_ANSWER_BYTES:
                raise self._ended()
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _ended(self) -> _EndedError:
        self.kill()
        code = self._process.wait()
        how = f"exit status {code}"
        if code < 0:
            with suppress(ValueError):
                how = signal.Signals(-code).name
        return _EndedError(
            f"the process that tried it out ended ({how}): expected a graph that runs; export it"
            " again"
        )

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """As `kill`; return when it is gone and its pipes are closed."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
