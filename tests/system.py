"""What tests borrow from the machine, returned on every path: programs, ports, threads, processes.

1. A program is looked up before anything is started, so that a skip leaves nothing behind.
2. A thread is a daemon with something that ends it: a test that fails or skips inside its block
   neither waits for it for ever nor keeps the process from ending.
3. A process that a test started ends with the test; `leftovers.py` fails a test that breaks this.
"""

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

END_S = 30


def require_program(name: str, package: str) -> str:
    """The path of `name`; without it the test is skipped, naming the Debian package to install.

    Under REQUIRE_ALL=1 such a skip fails (see conftest.py at the root).
    """
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


def installed_program(name: str) -> str:
    """The path of a program that the extra `dev` installs beside this Python."""
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{path} is missing: install the extra 'dev' (make test does)"
    return str(path)


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def in_thread(
    call: Callable, *arguments, stop: Callable[[], object] | None = None, **options
) -> Iterator[Future]:
    """Run `call` in a thread while the block runs; `stop` is what makes it return.

    A thread that does not end within `END_S` fails a block that has not failed already.
    """
    result: Future = Future()

    def run() -> None:
        try:
            result.set_result(call(*arguments, **options))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, daemon=True, name=f"test: {call}")
    thread.start()
    try:
        yield result
    finally:
        if stop is not None:
            stop()
        # After a failure only a moment: the failure is what the reader should see, and see soon.
        thread.join(END_S if sys.exception() is None else 1)
    assert not thread.is_alive(), f"{call} did not return within {END_S} s"


@contextmanager
def running_process(command: list, **options) -> Iterator[subprocess.Popen]:
    """A process that has ended, with all that it started, when the block has."""
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        end_tree(process)


def end_tree(process: subprocess.Popen) -> None:
    """Kill a process and everything below it, stopped ones included, and reap it."""
    if process.poll() is None:
        try:
            below = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        process.kill()
        kill_all(below)
    process.wait(END_S)


def kill_all(processes: list[psutil.Process]) -> None:
    for each in processes:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, END_S)
