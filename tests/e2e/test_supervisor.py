"""What becomes of a worker that ends: replaced once any has served, else the start has failed."""

import multiprocessing

import pytest
from structlog.testing import capture_logs

from service.supervisor import METRICS_FOLDER, Supervisor

READY, KILLED, EXITED = "ready", -9, 3


class FakeProcess:
    def __init__(self, pid):
        self.pid = pid
        self.exitcode = None
        self.sentinel, self._other_end = multiprocessing.Pipe(duplex=False)

    def end(self, code):
        if self.exitcode is None:
            self.exitcode = code
            self._other_end.close()  # a sentinel is ready from then on

    def terminate(self):
        self.end(0)

    def join(self):
        assert self.exitcode is not None
        self.sentinel.close()


class FakeWorker:
    """Does what `acts` say, in order, before anybody looks: ready, a reason, an exit code."""

    def __init__(self, pid, acts):
        self.is_ready = False
        self.refusal = ""
        self.process = FakeProcess(pid)
        self.pipe, theirs = multiprocessing.Pipe(duplex=False)
        for act in acts:
            if isinstance(act, int):
                self.process.end(act)
            else:
                theirs.send("" if act == READY else act)
        if self.process.exitcode is None:
            self._theirs = theirs  # open as long as it lives
        else:
            theirs.close()


class Run:
    """A supervisor of two workers, told to stop as soon as all are ready."""

    def __init__(self, *workers):
        acts = iter(workers)
        self.num_started = self.num_ready = 0
        self.pauses = []

        def start():
            self.num_started += 1
            return FakeWorker(10**8 + self.num_started, next(acts))

        def on_ready():
            self.num_ready += 1
            self.supervisor.stop()

        self.supervisor = Supervisor(2, start, on_ready, self.pauses.append)
        with capture_logs() as self.logs:
            self.code = self.supervisor.run()


@pytest.fixture(autouse=True)
def metrics_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(METRICS_FOLDER, str(tmp_path))


def test_a_first_worker_that_refuses_to_start_ends_the_service_with_its_reason():
    run = Run(["CARRY_MODELS: no such folder", 1])
    assert (run.code, run.supervisor.refusal) == (1, "CARRY_MODELS: no such folder")
    assert (run.num_started, run.logs) == (1, [])


@pytest.mark.parametrize(
    ("code", "reason"), [(KILLED, "killed by SIGKILL"), (EXITED, "code 3"), (0, "code 0")]
)
def test_a_first_worker_that_ends_without_a_report_ends_the_service_and_is_logged(code, reason):
    run = Run([code])
    assert (run.code, run.supervisor.refusal) == (code or 1, "")
    assert run.num_started == 1
    [line] = run.logs
    assert reason in line["reason"]


@pytest.mark.parametrize(
    ("acts", "reason"),
    [
        ([KILLED], "it was killed by SIGKILL"),
        ([EXITED], "it exited with code 3"),
        (["the write-ahead log was truncated", 1], "the write-ahead log was truncated"),
    ],
)
def test_a_second_worker_that_ends_while_it_starts_is_replaced_after_a_pause(acts, reason):
    run = Run([READY], acts, acts, [READY])
    assert (run.code, run.num_started, run.num_ready) == (0, 4, 1)
    assert [(line["reason"], line["was_ready"]) for line in run.logs] == [(reason, False)] * 2
    assert len(run.pauses) == 2


def test_a_first_worker_that_was_ready_and_ended_at_once_is_replaced():
    run = Run([READY, KILLED], [READY], [READY])
    assert (run.code, run.num_started, run.pauses) == (0, 3, [])
    [line] = run.logs
    assert line["was_ready"]


def test_the_service_continues_without_workers_if_one_was_ready_before():
    run = Run([READY, KILLED], ["broken", 1], [READY], [READY])
    assert (run.code, run.num_started) == (0, 4)
    assert {line["reason"] for line in run.logs} == {"it was killed by SIGKILL", "broken"}
