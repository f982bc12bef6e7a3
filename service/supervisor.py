"""Several processes that serve one socket and one store (`CARRY_WORKERS`).

Rule 1: the first worker starts alone. If it cannot start, the reason is reported once and the
        service ends. The service is ready when all workers are.
Rule 2: requests are answered as soon as one worker is ready. From then on every worker that ends
        unexpectedly is replaced, even while it starts; its committed steps are in the store.
Rule 3: SIGTERM or SIGINT is passed on as SIGTERM; the supervisor ends after all workers. A worker
        whose supervisor ended stops too.
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
"""Read by prometheus_client when it is imported: each worker keeps its metrics in files there."""

_PAUSE_S = 1.0
"""The pause before replacing a worker that ended while it started."""

_spawn = multiprocessing.get_context("spawn")  # a fork would inherit state of prometheus_client


def supervise(settings: Settings, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Run the workers until a signal to stop; exits with their code if that is not 0.

    Raises:
        StartUpError: the first worker cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="carry-metrics-") as folder:
        os.environ[METRICS_FOLDER] = folder
        supervisor = Supervisor(settings.workers, lambda: Worker(settings, listener), on_ready)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: supervisor.stop())
        code = supervisor.run()
    if supervisor.refusal:
        raise StartUpError(supervisor.refusal)
    if code:
        sys.exit(code)


class Worker:
    """A process, and the pipe on which it reports that it is ready, or why it cannot start."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.is_ready = False
        self.refusal = ""
        self.pipe, sender = _spawn.Pipe(duplex=False)
        self.process = _spawn.Process(target=_work, args=(settings, listener, sender))
        self.process.start()
        sender.close()


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
        """Why the first worker cannot start; empty if it did, or ended without a report."""
        self._num_workers = num_workers
        self._start_worker = start_worker
        self._on_ready = on_ready
        self._sleep = sleep
        self._has_served = False  # one worker was ready
        self._was_ready = False  # all workers were ready
        self._is_stopping = False
        self._exit_code = 0
        self._workers: list[Worker] = []

    def run(self) -> int:
        """Run until every worker has ended; returns 0 if all ended well and were stopped."""
        self._start_one()
        while self._workers:
            pipes = [worker.pipe for worker in self._workers if not worker.is_ready]
            # A signal does not end this wait: it ends the workers, and their end does.
            events = wait([*pipes, *(worker.process.sentinel for worker in self._workers)])
            for worker in list(self._workers):
                if worker.pipe in events and not worker.is_ready:
                    self._read_report(worker)
                if worker.process.sentinel in events:
                    self._on_end(worker)
        return self._exit_code

    def stop(self) -> None:
        """End every worker; safe to call in a signal handler."""
        self._is_stopping = True
        for worker in self._workers:
            worker.process.terminate()

    def _start_one(self) -> None:
        self._workers.append(self._start_worker())
        if self._is_stopping:  # a signal arrived while it was starting
            self.stop()

    def _read_report(self, worker: Worker) -> None:
        try:
            worker.refusal = worker.pipe.recv()
        except (EOFError, OSError):  # it ended: the sentinel follows
            return
        if worker.refusal:  # it is about to end
            return
        worker.is_ready = self._has_served = True
        while len(self._workers) < self._num_workers and not self._is_stopping:
            self._start_one()
        if self._was_ready or self._is_stopping:
            return
        if all(each.is_ready for each in self._workers):
            self._was_ready = True
            self._on_ready()

    def _on_end(self, worker: Worker) -> None:
        self._workers.remove(worker)
        if not worker.is_ready and not worker.refusal and worker.pipe.poll():
            self._read_report(worker)  # it was sent between `wait` and the end
        worker.pipe.close()
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
                log.error("first worker ended during startup", pid=pid, reason=reason)
            self.stop()
            return
        log.error(
            "worker ended, starting a replacement",
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
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"it was killed by signal {-code}"


def _work(settings: Settings, listener: socket.socket, pipe: Connection) -> None:
    """The main function of a worker's process."""
    configure_logs(settings.log_level, settings.log_format)
    threading.Thread(target=_end_with_the_supervisor, daemon=True).start()
    try:
        serve(settings, listener, lambda: pipe.send(""))
    except StartUpError as error:
        with suppress(OSError):  # the supervisor has ended
            pipe.send(str(error))
        sys.exit(1)


def _end_with_the_supervisor() -> None:
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None, "called in a worker"
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)
