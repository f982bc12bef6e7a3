"""Nothing outlives the test that started it: what does is ended here, and fails that test.

Processes are looked for below this one after every test, and once more by an environment variable
at the end of the run, for those whose parent died first.
"""

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from tests.system import END_S, kill_all

RUN = "TEST_RUN_ID"
"""A variable that every process inherits that a test starts."""

SHARED = "service.engine.models.verifier_process"
"""Tries out the bundles of many tests, one after another; ends with the process of the tests."""

_of_session: set[int] = set()
_num_serving = 0


def begin_run() -> None:
    os.environ.setdefault(RUN, uuid.uuid4().hex)


def keep_for_session(pid: int) -> None:
    """A fixture of the whole session owns this process, and ends it."""
    _of_session.add(pid)


@contextmanager
def serving_on() -> Iterator[None]:
    """An application is served, perhaps to many tests: until it ends, its processes may stay."""
    global _num_serving
    _num_serving += 1
    try:
        yield
    finally:
        _num_serving -= 1


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail if a process or a thread that would keep this process alive came and stayed."""
    owned = {process.pid for process in psutil.Process().children()}
    threads_before = set(threading.enumerate())
    yield
    left = [process for process in _children(owned) if not _num_serving and _is_running(process)]
    names = [_name(process) for process in left]
    kill_all(left)
    threads = [each for each in threading.enumerate() if not each.daemon]
    for thread in threads:
        if thread not in threads_before:
            thread.join(END_S)  # an executor that was told to end does so in its own time
            names += [thread.name] if thread.is_alive() else []
    if names:
        pytest.fail(f"left running by this test: {'; '.join(names)}", pytrace=False)


def end_run() -> list[str]:
    """End whatever inherited this run's variable and still runs; its command lines."""
    run = os.environ[RUN]
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    left = []
    for process in psutil.process_iter():
        try:
            if process.pid not in own and process.environ().get(RUN) == run:
                left.append(process)
        except psutil.Error:  # it ended, or belongs to somebody else
            continue
    left = [process for process in left if _is_running(process)]
    names = [_name(process) for process in left]
    kill_all(left)
    return names


def _children(owned: set[int]) -> list[psutil.Process]:
    """All below this process, but for what is `owned` or of the session, with what that starts."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if child.pid not in owned | _of_session and SHARED not in child.cmdline():
                found += [child, *child.children(recursive=True)]
    return found


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return f"process {process.pid} ({' '.join(process.cmdline())[:200]})"
    except psutil.Error:
        return f"process {process.pid}"
