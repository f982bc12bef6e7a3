"""Ten thousand sockets that say nothing, for real: others are served, and the crowd is let go."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster

NUM_IDLE = 10_000
NUM_BESIDE = 20
READ_TIMEOUT_S = 30.0
"""Until then the whole crowd must be there."""
ANSWERED_S = 20.0
"""A step takes about a millisecond; beside the crowd, on a machine that does other things, too."""
MAX_BYTES_EACH = 16 * 1024
OPEN = {"model": "load", "session": "s", "start": "2016-08-22"}


@contextmanager
def many_files(num_files: int) -> Iterator[None]:
    """This process, and those that it starts, may open so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < num_files:
        pytest.skip(f"{hard} files may be open here, expected {num_files}: ulimit -Hn {num_files}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def num_sockets(pid: int) -> int:
    def leads_to(path: Path) -> str:
        try:
            return str(path.readlink())
        except FileNotFoundError:  # closed meanwhile
            return ""

    return sum("socket:" in leads_to(path) for path in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.timeout(600)
def test_ten_thousand_idle_sockets_keep_nobody_waiting_and_are_swept(tmp_path):
    write_forecaster(tmp_path / "models")
    with ExitStack() as opened:
        opened.enter_context(many_files(NUM_IDLE + 500))
        server = opened.enter_context(
            running_server(
                tmp_path,
                models=tmp_path / "models",
                store="memory://",
                max_connections=NUM_IDLE + NUM_BESIDE,
                read_timeout_s=READ_TIMEOUT_S,
            )
        )
        pid = server.process.pid
        client = opened.enter_context(httpx.Client(base_url=server.url, timeout=ANSWERED_S))
        client.post("/v1/sessions", json=OPEN).raise_for_status()
        step_often(client, 0)
        bytes_before, sockets_before = resident_bytes(pid), num_sockets(pid)

        crowd = [opened.enter_context(connect(server)) for _ in range(NUM_IDLE)]
        step_often(client, 50)
        assert num_sockets(pid) >= sockets_before + NUM_IDLE, "some were closed already"
        assert resident_bytes(pid) - bytes_before < NUM_IDLE * MAX_BYTES_EACH

        # One more than there may be is told so; those that are open are served on.
        beyond = [opened.enter_context(connect(server)) for _ in range(2 * NUM_BESIDE)]
        assert beyond[-1].recv(65536).startswith(b"HTTP/1.1 503 ")
        step_often(client, 100)

        for connection in crowd:
            assert connection.recv(1) == b""
        for connection in beyond:
            while connection.recv(65536):
                pass
        with httpx.Client(base_url=server.url, timeout=ANSWERED_S) as later:
            step_often(later, 150)
            assert num_sockets(pid) <= sockets_before + 1


def connect(server):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=ANSWERED_S)
    connection.settimeout(3 * READ_TIMEOUT_S)
    return connection


def step_often(client, count):
    for step in range(count, count + 50):
        body = {"step": step, "observations": [[1.0, 2.0]]}
        answer = client.post("/v1/sessions/s/steps", json=body)
        assert (answer.status_code, answer.json()["step"]) == (200, step + 1)
