"""Verifies bundles in separate processes before this process opens them.

Rule 1: whatever a bundle does (run forever, use all memory, crash a library), it does to a process
        with no other task. After `limit_s` that process is killed, and the bundle is refused.
Rule 2: one process verifies one bundle after another, if each takes less than `_PROMPT_S`. When one
        takes longer, another process starts with the next: so a slow bundle delays others by a
        second, and a hundred small ones need one process.
Rule 3: at most `_MAX_PROCESSES` are alive. `rest` ends the idle ones.
Rule 4: the hash of a bundle's manifest identifies it. A verified bundle is not verified again.

Any thread can call the methods. The creator of a verifier closes it.
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
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import service
from service.contract.bundle import read_manifest
from service.contract.errors import BundleError

_PROMPT_S: Final = 1.0
_START_S: Final = 60.0
"""For a process to start, even on a busy machine."""
_MAX_PROCESSES: Final = 8
_WAKE_S: Final = 0.1
"""How soon a queued bundle notices that it was cancelled."""
_MAX_ANSWER_BYTES: Final = 64 * 1024


class Cancelled(Exception):  # noqa: N818 -- not an error
    """The caller no longer needs the result."""


class Verification:
    """The verification of one bundle. Any thread can call `cancel` at any time."""

    def __init__(self, verifier: "Verifier", folder: Path) -> None:
        self.folder = folder
        self.began_s: float | None = None
        """When a ready process received it."""
        self.is_cancelled = False
        self._verifier = verifier
        self._child: _Child | None = None

    def run(self) -> str:
        """Return the `manifest_digest` of the bundle after verifying it.

        Raises:
            BundleError: with the reason for refusing it.
            OSError: it cannot be read.
            Cancelled: `cancel` was called, or the verifier was closed.
        """
        digest = hashlib.sha256(read_manifest(self.folder)).hexdigest()
        if not self._verifier.has_verified(digest):
            digest = self._verifier.verify(self)
        return digest

    def cancel(self) -> None:
        self.is_cancelled = True
        child = self._child
        if child is not None:
            child.kill()

    def assign(self, child: "_Child | None") -> None:
        """Set the process that verifies it now."""
        self._child = child
        if self.is_cancelled and child is not None:
            child.kill()

    def require_not_cancelled(self) -> None:
        if self.is_cancelled:
            raise Cancelled


class Verifier:
    """The processes that verify bundles, and the digests of verified ones."""

    def __init__(self, provider: str, num_threads: int, limit_s: float) -> None:
        self._provider = provider
        self._num_threads = num_threads
        self._limit_s = limit_s
        self._turn = threading.Semaphore(1)
        self._room = threading.Semaphore(_MAX_PROCESSES)
        self._lock = threading.Lock()  # of the three below
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        self._is_closed = False
        self._verified: set[str] = set()

    def start(self) -> None:
        """Start a process, so that it is ready for the first bundle."""
        with suppress(BundleError):  # the first verification reports it
            child = self._take()
            with self._lock:
                self._idle.append(child)

    def has_verified(self, digest: str) -> bool:
        return digest in self._verified

    def rest(self) -> None:
        """End the idle processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            self._discard(child)

    def close(self) -> None:
        """End every process and refuse the bundles in them. No process starts after that."""
        with self._lock:
            self._is_closed = True
            children = list(self._children)
        for child in children:
            child.kill()
        self.rest()

    def verify(self, verification: Verification) -> str:
        """As `Verification.run`, for a bundle that is not verified yet."""
        with ExitStack() as room, ExitStack() as turn:  # a slow bundle ends its turn early
            _acquire(self._room, verification, room)
            _acquire(self._turn, verification, turn)
            answer = self._answer(verification, turn.close)
        if "refused" in answer:
            raise BundleError(str(answer["refused"]))
        digest = str(answer["digest"])
        self._verified.add(digest)
        return digest

    def _answer(self, verification: Verification, on_slow: Callable[[], None]) -> dict[str, Any]:
        while True:
            child = self._take()
            was_used = child.was_used
            verification.assign(child)
            try:
                child.get_ready()
                verification.began_s = time.monotonic()
                answer = child.ask(self._question(verification.folder), self._limit_s, on_slow)
            except _EndedError as end:
                self._discard(child)
                verification.require_not_cancelled()
                if was_used:  # an earlier bundle may have damaged it: try once more with a new one
                    continue
                raise BundleError(end.reason) from None
            except BaseException:
                self._discard(child)
                raise
            finally:
                verification.assign(None)
            with self._lock:
                self._idle.append(child)
            return answer

    def _question(self, folder: Path) -> bytes:
        question = {
            "folder": os.fspath(folder.absolute()),
            "limit_s": self._limit_s,
            "num_threads": self._num_threads,
        }
        return json.dumps(question).encode() + b"\n"

    def _take(self) -> "_Child":
        """An idle process, or a new one."""
        with self._lock:  # held while it starts, so that `close` finds it
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


def _acquire(
    semaphore: threading.Semaphore, verification: Verification, release: ExitStack
) -> None:
    """Acquire a semaphore, which `release` releases, unless the verification is cancelled."""
    while not semaphore.acquire(timeout=_WAKE_S):
        verification.require_not_cancelled()
    release.callback(semaphore.release)


class _EndedError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Child:
    """One process. One thread at a time uses it, any thread can `kill` it, one thread ends it."""

    def __init__(self, provider: str) -> None:
        self.was_used = False
        self._is_ready = False
        self._received = b""
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- a module of this package
                [sys.executable, "-m", "service.engine.models.verifier_process", provider],
                cwd=Path(service.__file__).parents[1],  # first on the path of `-m`: the same code
                env=os.environ | {"RUST_BACKTRACE": "0"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            raise BundleError(
                f"failed to start a process to verify it ({error.strerror}): load it again"
            ) from None

    def get_ready(self) -> None:
        """Raise _EndedError if the process does not start."""
        if not self._is_ready:
            late = f"the process to verify it did not start in {_START_S:g} s: load it again"
            self._line(_START_S, late)
            self._is_ready = True

    def ask(self, question: bytes, limit_s: float, on_slow: Callable[[], None]) -> dict[str, Any]:
        """The answer. `on_slow` is called if it takes longer than `_PROMPT_S`.

        Raises:
            _EndedError: the process ended, or was killed after the time limit.
        """
        assert self._process.stdin is not None, "a pipe"
        self.was_used = True
        try:
            self._process.stdin.write(question)
        except OSError:
            raise self._ended() from None
        late = (
            f"it was not verified in {limit_s:g} s: expected a graph that ends; export it again, or"
            " raise CARRY_LOAD_TIMEOUT_S if it is only slow"
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
            f"the verifying process ended ({how}): expected a graph that runs; export it again"
        )

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """As `kill`; return when it has ended and its pipes are closed."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
