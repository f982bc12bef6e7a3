"""Big bodies, read in a process of its own: parsing one here would hold up every other request.

Owned by the application. The process is started by the first big body, ends when its standard input
does (so never later than this process), and is replaced if it dies or is left with much memory. One
body is read at a time, in bounded memory and time; `MAX_WAITING` bounds those that wait.

Reading a body changes nothing. So where the process has died that read others before, the body is
read again by a new one, and no request fails for what another did.
"""

import asyncio
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import service
from service.api.body_reader.process import too_much
from service.errors import QueueFullError, ReaderDiedError

BIG_BODY_BYTES = 256 * 1024
"""A longer body takes longer to parse than other requests should wait."""

MAX_WAITING = 16

_BOUNDS = (-signal.SIGPROF, -signal.SIGABRT)
"""How the process ends at its bound of time, and where no memory is left for a library."""

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")


class BodyReader:
    """Calls functions of `codec/decode.py` in the process that reads."""

    def __init__(self, max_body_bytes: int = 16 * 2**20) -> None:
        """`max_body_bytes` says how much memory a body may take."""
        self._max_body_bytes = max_body_bytes
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="body-reader")
        self._process: subprocess.Popen[bytes] | None = None
        self._num_waiting = 0

    async def call(self, function: Callable[[*_Arguments], _Result], *args: *_Arguments) -> _Result:
        """`function(*args)`, with all of these pickled.

        Raises:
            CarryError: what the function raised; or too many bodies wait, or the process died.
        """
        if self._num_waiting >= MAX_WAITING:
            raise QueueFullError(
                f"{MAX_WAITING} big bodies wait to be read; nothing was applied: try again",
                retry_after_s=1,
            )
        self._num_waiting += 1
        try:
            loop = asyncio.get_running_loop()
            result: _Result = await loop.run_in_executor(self._thread, self._call, function, args)
            return result
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """End the process; callers that wait for it get an error."""
        self._is_closed = True
        process = self._process
        if process is not None:
            process.kill()
        self._thread.shutdown(cancel_futures=True)
        self._stop()

    def _call(self, *call: object) -> Any:  # noqa: ANN401 -- what the function returns
        """In the thread: `call` is the function and its arguments."""
        while True:
            process, was_used = self._process, True
            if process is None or process.poll() is not None:
                self._stop()
                process, was_used = self._begin(), False
            try:
                error, result, is_last = _ask(process, call)
            except (EOFError, OSError, pickle.UnpicklingError) as reason:
                code = self._stop()
                if code in _BOUNDS:
                    raise too_much() from None
                if was_used and not self._is_closed:
                    continue
                raise ReaderDiedError(
                    "the process that reads big bodies ended; nothing was applied: repeat the"
                    " request, if need be in smaller parts",
                    retry_after_s=1,
                ) from reason
            if is_last:
                self._stop()
            if error is not None:
                raise error
            return result

    def _begin(self) -> subprocess.Popen[bytes]:
        process = self._process = _start(self._max_body_bytes)
        if self._is_closed:
            process.kill()
        return process

    def _stop(self) -> int | None:
        """End the process; how it had ended."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.communicate()
        return process.returncode


def _ask(process: subprocess.Popen[bytes], call: object) -> Any:  # noqa: ANN401 -- pickled
    assert process.stdin is not None, "a pipe"
    assert process.stdout is not None, "a pipe"
    pickle.dump(call, process.stdin, pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()
    return pickle.load(process.stdout)  # noqa: S301 -- our own process


def _start(max_body_bytes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 -- a module of ours
        [sys.executable, "-m", "service.api.body_reader.process", str(max_body_bytes)],
        cwd=Path(service.__file__).parents[1],  # first on the path of `-m`: the same code as here
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
