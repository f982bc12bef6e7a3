"""A graph from elsewhere, in a child process: nothing in it can end this one, or hold it up.

ONNX Runtime ends its process by a signal on some graphs (float16 LSTM), and never returns from
others (a Loop without an end). The child reads, loads and runs the graph; what it answers is plain
numbers, never a pickled object.

Owned by the command that imports. A request that exceeds what is left of `limit_s` ends the child.
`close` ends it on every other path; so does the end of this process, which closes the socket.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np

import training
from service.contract.calls import Arrays
from training.foreign.choices import GraphCallError, ImportGraphError
from training.foreign.graph_file import require_graph_file
from training.foreign.recurrence import Recurrence
from training.foreign.signature import Signature, Tensor

DEFAULT_LIMIT_S: Final = 120.0
_MAX_MESSAGE_BYTES: Final = 2**31
_HALF_REMEDY: Final = (
    "it has float16 tensors, with which ONNX Runtime's optimiser crashes in some graphs on CPU:"
    " export it in float32 (model.float() before torch.onnx.export)"
)


class GraphProcess:
    """Reads and loads the graph when it is made. `run` is one call of the graph."""

    def __init__(
        self,
        path: Path,
        limit_s: float = DEFAULT_LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Raises:
            ImportGraphError: it cannot be read or loaded, or the child ended or took too long.
        """
        require_graph_file(path)
        self._where = path.name
        self._limit_s = self._left_s = limit_s
        self._clock = clock
        self._recurrence = Recurrence()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in close()
        self._timed_out = False
        try:
            self._process, self._connection = _start(self._errors, path, limit_s)
        except BaseException:
            self._errors.close()
            raise
        try:
            header, [self.graph] = self._request("read the graph", {"do": "read"})
            self._recurrence = Recurrence.from_dict(header["recurrence"])
            header, _ = self._request("load the graph", {"do": "load"})
            self.signature = Signature(
                {name: Tensor(name, *rest) for name, *rest in header["inputs"]},
                {name: Tensor(name, *rest) for name, *rest in header["outputs"]},
                self._recurrence,
            )
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Arrays) -> Arrays:
        """One call: all inputs by name → all outputs by name.

        Raises:
            ImportGraphError: the graph refused the inputs, or the child ended or took too long.
        """
        arrays = [np.ascontiguousarray(feeds[name]) for name in self.signature.inputs]
        described = [[array.dtype.name, list(array.shape)] for array in arrays]
        header, answers = self._request(
            f"run the graph with {_shapes(feeds)}",
            {"do": "run", "arrays": described},
            *(array.tobytes() for array in arrays),
        )
        return {
            name: np.frombuffer(data, dtype).reshape(shape)
            for name, data, (dtype, shape) in zip(
                self.signature.outputs, answers, header["arrays"], strict=True
            )
        }

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _request(
        self,
        what: str,
        header: dict[str, Any],
        *parts: Any,  # noqa: ANN401 -- bytes or a view
    ) -> tuple[dict[str, Any], list[bytes]]:
        started = self._clock()
        timer = threading.Timer(max(self._left_s, 0), self._end_late)
        timer.start()
        try:
            self._connection.send_bytes(json.dumps(header).encode())
            for part in parts:
                self._connection.send_bytes(part)
            answer = json.loads(self._connection.recv_bytes(_MAX_MESSAGE_BYTES))
            answers = [
                self._connection.recv_bytes(_MAX_MESSAGE_BYTES)
                for _ in range(answer.get("num_parts", 0))
            ]
        except (EOFError, OSError):
            raise ImportGraphError(self._ended(what)) from None
        finally:
            timer.cancel()
            timer.join()
            self._left_s -= self._clock() - started
        if "error" in answer:
            kind = GraphCallError if header["do"] == "run" else ImportGraphError
            raise kind(answer["error"])
        return answer, answers

    def _end_late(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _ended(self, what: str) -> str:
        """Why the child is gone, and what to do."""
        self._process.kill()
        status = self._process.wait()
        if self._timed_out:
            return (
                f"{self._where}: it took more than {self._limit_s:g} s to {what}: is there a loop"
                " without an end? For an honest graph that is slow, give a longer --limit-s"
            )
        if status == -signal.SIGXCPU:
            return f"{self._where}: it took too long to {what}; give a longer --limit-s"
        if status >= 0:
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 2000))
            lines = self._errors.read().decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            return f"{self._where}: the process that was to {what} ended: {last[:300]}"
        remedy = "export it again, with another opset or without its unusual operators"
        if self._recurrence.has_float16:
            remedy = _HALF_REMEDY
        if status == -signal.SIGKILL:
            remedy = "it probably needed more memory than there is: use a smaller model"
        return (
            f"{self._where}: ONNX Runtime crashed ({signal.Signals(-status).name}) when it was to"
            f" {what}, so the service could not serve it: {remedy}"
        )


def _start(
    errors: IO[bytes], path: Path, limit_s: float
) -> tuple[subprocess.Popen[bytes], Connection]:
    root = str(Path(training.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    ours, theirs = socket.socketpair()
    with contextlib.closing(theirs):
        theirs.set_inheritable(True)
        process = subprocess.Popen(  # noqa: S603 -- our own module
            [sys.executable, "-P", "-m", "training.foreign.graph_child",
             str(theirs.fileno()), f"{limit_s:g}", str(path)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            pass_fds=[theirs.fileno()],
        )  # fmt: skip
    return process, Connection(ours.detach())


def _shapes(feeds: Arrays) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in feeds.items()}
