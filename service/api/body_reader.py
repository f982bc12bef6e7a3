"""Big bodies, read in a process of its own: parsing one here would hold up every other request.

Owned by the application. The process is started by the first big body, ends when its standard input
does (so never later than this process), and is replaced if it dies. One body is read at a time;
`MAX_WAITING` bounds those that wait.
"""

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import service
from service.errors import QueueFullError, ReaderDiedError

BIG_BODY_BYTES = 256 * 1024
"""A longer body takes longer to parse than other requests should wait."""

MAX_WAITING = 16

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")


class BodyReader:
    """Calls functions of `decode.py` in the process that reads."""

    def __init__(self) -> None:
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
        """End the process; whoever waits for it gets an error."""
        if self._process is not None:
            self._process.kill()
        self._thread.shutdown(cancel_futures=True)
        self._stop()

    def _call(self, *call: object) -> Any:  # noqa: ANN401 -- what the function returns
        """In the thread: `call` is the function and its arguments."""
        process = self._process = self._process or _start()
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        try:
            pickle.dump(call, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            error, result = pickle.load(process.stdout)  # noqa: S301 -- our own process
        except (EOFError, OSError, pickle.UnpicklingError) as reason:
            self._stop()
            raise ReaderDiedError(
                "the process that reads big bodies ended; nothing was applied: repeat the request,"
                " if need be in smaller parts",
                retry_after_s=1,
            ) from reason
        if error is not None:
            raise error
        return result

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "service.api.body_reader_process"],
        cwd=Path(service.__file__).parents[1],  # first on the path of `-m`: the same code as here
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
