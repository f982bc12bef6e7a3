"""Several processes that serve one socket and one store (`CARRY_WORKERS`).

Rule 1: the first worker starts alone, so that what keeps it from starting is said once and ends the
        service; the service is ready when all of them are.
Rule 2: requests are answered as soon as one worker is ready. From then on a worker that ends
        unasked is replaced, also one that ends while it starts; what it had committed is in the
        store.
Rule 3: SIGTERM or SIGINT is passed on as SIGTERM; the supervisor ends when every worker has, and a
        worker whose supervisor is gone stops by itself.
"""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait

import structlog
from prometheus_client.multiprocess import mark_process_dead

from service.errors import StartUpError
from service.server import serve
from service.settings import Settings
from service.telemetry.logs import configure_logs

log = structlog.get_logger()

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus_client when it is imported: each worker keeps its figures in files there."""

_PAUSE_S = 1.0
"""Before a worker is replaced that did not even start."""

_spawn = multiprocessing.get_context("spawn")  # a fork would share what prometheus_client has read


def supervise(settings: Settings, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Run the workers until a signal to stop; exits with their code if that is not 0.

    Raises:
        StartUpError: what the first worker raised.
    """
    with tempfile.TemporaryDirectory(prefix="carry-metrics-") as folder:
        os.environ[METRICS_FOLDER] = folder
        supervisor = Supervisor(settings.workers, lambda: Worker(settings, listener), on_ready)
        for which in (signal.SIGINT, signal.SIGTERM):
            signal.signal(which, lambda *_: supervisor.stop())
        code = supervisor.run()
    if supervisor.refusal:
        raise StartUpError(supervisor.refusal)
    if code:
        sys.exit(code)


class Worker:
    """A process and the line on which it says that it is ready, or why it cannot start."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.is_ready = False
        self.refusal = ""
        self.line, theirs = _spawn.Pipe(duplex=False)
        self.process = _spawn.Process(target=_work, args=(settings, listener, theirs))
        self.process.start()
        theirs.close()


class Supervisor:
    """Starts, replaces and ends the workers; `run` returns when all of them have ended."""

    def __init__(
        self,
        num_workers: int,
        start_worker: Callable[[], Worker],
        on_ready: Callable[[], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.refusal = ""
        """Why the first worker cannot start; empty if it did, or could not say."""
        self._num_workers = num_workers
        self._start_worker = start_worker
        self._on_ready = on_ready
        self._sleep = sleep
        self._has_served = False  # one worker was ready
        self._was_ready = False  # all were
        self._is_stopping = False
        self._exit_code = 0
        self._workers: list[Worker] = []

    def run(self) -> int:
        """The exit code: 0 if the workers ended well and because they were told to."""
        self._start_one()
        while self._workers:
            lines = [worker.line for worker in self._workers if not worker.is_ready]
            # A signal does not end this, but makes the workers end.
            happened = wait([*lines, *(worker.process.sentinel for worker in self._workers)])
            for worker in list(self._workers):
                if worker.line in happened and not worker.is_ready:
                    self._read(worker)
                if worker.process.sentinel in happened:
                    self._ended(worker)
        return self._exit_code

    def stop(self) -> None:
        """End every worker; may be called by a signal handler."""
        self._is_stopping = True
        for worker in self._workers:
            worker.process.terminate()

    def _start_one(self) -> None:
        self._workers.append(self._start_worker())
        if self._is_stopping:  # the signal came while it was being started
            self.stop()

    def _read(self, worker: Worker) -> None:
        try:
            worker.refusal = worker.line.recv()
        except (EOFError, OSError):  # it ended: the sentinel says so in a moment
            return
        if worker.refusal:  # it ends now
            return
        worker.is_ready = self._has_served = True
        while len(self._workers) < self._num_workers and not self._is_stopping:
            self._start_one()
        if self._was_ready or self._is_stopping:
            return
        if all(each.is_ready for each in self._workers):
            self._was_ready = True
            self._on_ready()

    def _ended(self, worker: Worker) -> None:
        self._workers.remove(worker)
        if not worker.is_ready and not worker.refusal and worker.line.poll():
            self._read(worker)  # it said so between `wait` and its end
        worker.line.close()
        worker.process.join()
        pid, code = worker.process.pid, worker.process.exitcode
        mark_process_dead(pid)  # type: ignore[no-untyped-call]  # its gauges, not its counts
        if self._is_stopping:
            was_cut_short = worker.is_ready and code != 0
            self._exit_code = self._exit_code or int(was_cut_short)
            return
        reason = worker.refusal or _describe_end(code)
        if not self._has_served:
            self._exit_code = code or 1
            self.refusal = worker.refusal
            if not worker.refusal:
                log.error("first worker ended while it started", pid=pid, reason=reason)
            self.stop()
            return
        log.error(
            "worker ended, another is started",
            pid=pid,
            exit_code=code,
            reason=reason,
            was_ready=worker.is_ready,
        )
        if not worker.is_ready:
            self._sleep(_PAUSE_S)
        while len(self._workers) < self._num_workers and not self._is_stopping:
            self._start_one()


def _describe_end(code: int | None) -> str:
    if code is None or code >= 0:
        return f"it exited with code {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"it was ended by signal {-code}"


def _work(settings: Settings, listener: socket.socket, line: Connection) -> None:
    """In the worker's process."""
    configure_logs(settings.log_level, settings.log_format)
    threading.Thread(target=_end_with_the_supervisor, daemon=True).start()
    try:
        serve(settings, listener, lambda: line.send(""))
    except StartUpError as error:
        with suppress(OSError):  # the supervisor is gone
            line.send(str(error))
        sys.exit(1)


def _end_with_the_supervisor() -> None:
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None, "called in a worker"
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)
