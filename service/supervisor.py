"""Several processes that serve one socket and one store (`CARRY_WORKERS`).

Rule 1: the first worker starts alone, so that what keeps it from starting is said once and ends the
        service; the service is ready when all of them are.
Rule 2: a worker that ends unasked is replaced; what it had committed is in the store.
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
    """Run the workers until a signal to stop; exits as the first worker if that does not start."""
    with tempfile.TemporaryDirectory(prefix="carry-metrics-") as folder:
        os.environ[METRICS_FOLDER] = folder
        code = _Supervisor(settings, listener, on_ready).run()
    if code:
        sys.exit(code)


class _Worker:
    """A process and the line on which it says that it is ready."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.is_ready = False
        self.line, theirs = _spawn.Pipe(duplex=False)
        self.process = _spawn.Process(target=_work, args=(settings, listener, theirs))
        self.process.start()
        theirs.close()


class _Supervisor:
    def __init__(
        self, settings: Settings, listener: socket.socket, on_ready: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._on_ready = on_ready
        self._was_ready = False
        self._is_stopping = False
        self._exit_code = 0
        self._workers: list[_Worker] = []

    def run(self) -> int:
        for which in (signal.SIGINT, signal.SIGTERM):
            signal.signal(which, lambda *_: self._stop())
        self._start_one()
        while self._workers:
            lines = [worker.line for worker in self._workers if not worker.is_ready]
            # A signal does not end this, but makes the workers end.
            happened = wait([*lines, *(worker.process.sentinel for worker in self._workers)])
            for worker in list(self._workers):
                if worker.process.sentinel in happened:
                    self._ended(worker)
                elif worker.line in happened:
                    self._ready(worker)
        return self._exit_code

    def _start_one(self) -> None:
        self._workers.append(_Worker(self._settings, self._listener))
        if self._is_stopping:  # the signal came while it was being started
            self._stop()

    def _ready(self, worker: _Worker) -> None:
        try:
            worker.is_ready = worker.line.recv()
        except EOFError:  # it ended: the sentinel says so in a moment
            return
        while len(self._workers) < self._settings.workers and not self._is_stopping:
            self._start_one()
        if not self._was_ready and all(each.is_ready for each in self._workers):
            self._was_ready = True
            self._on_ready()

    def _ended(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.line.close()
        worker.process.join()
        pid, code = worker.process.pid, worker.process.exitcode
        mark_process_dead(pid)  # type: ignore[no-untyped-call]  # its gauges, not its counts
        if self._is_stopping:
            was_cut_short = worker.is_ready and code != 0
            self._exit_code = self._exit_code or int(was_cut_short)
        elif not worker.is_ready and not self._was_ready:
            self._exit_code = self._exit_code or code or 1
            self._stop()
        else:
            log.error("worker ended, another is started", pid=pid, exit_code=code)
            if not worker.is_ready:
                time.sleep(_PAUSE_S)
            self._start_one()

    def _stop(self) -> None:
        self._is_stopping = True
        for worker in self._workers:
            worker.process.terminate()


def _work(settings: Settings, listener: socket.socket, line: Connection) -> None:
    """In the worker's process."""
    configure_logs(settings.log_level, settings.log_format)
    threading.Thread(target=_end_with_the_supervisor, daemon=True).start()
    try:
        serve(settings, listener, lambda: line.send(True))
    except StartUpError as error:
        sys.exit(f"carry: {error}")


def _end_with_the_supervisor() -> None:
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None, "called in a worker"
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)
