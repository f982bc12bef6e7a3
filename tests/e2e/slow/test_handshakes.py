"""WebSocket handshakes that come to nothing, against the real service, while it works and stops."""

import json
import select
import socket
import threading
import time
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster

READ_TIMEOUT_S = 2.0
NUM_HANDSHAKES = 50
DEADLINE_S = 60
OPEN = {"model": "load", "session": "s", "start": "2016-08-22"}
HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)
WRONG = [
    HANDSHAKE + b"Content-Length: 1\r\n\r\n",
    HANDSHAKE + b"Transfer-Encoding: chunked\r\n\r\n",
    HANDSHAKE + b"X: " + b"y" * 9000 + b"\r\n\r\n",
    HANDSHAKE.replace(b"13", b"12") + b"\r\n",
    HANDSHAKE.replace(b"Host: x\r\n", b"") + b"\r\n",
]
UNFINISHED = [HANDSHAKE, HANDSHAKE[:40], HANDSHAKE + b"\r"]


@pytest.fixture
def server(tmp_path):
    write_forecaster(tmp_path / "models")
    settings = {"models": tmp_path / "models", "store": f"sqlite:///{tmp_path}/carry.db"}
    with running_server(tmp_path, read_timeout_s=READ_TIMEOUT_S, **settings) as server:
        httpx.post(server.url + "/v1/sessions", json=OPEN, timeout=60).raise_for_status()
        yield server


def opened(server, stack, data):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S)
    stack.enter_context(connection)
    connection.sendall(data)
    return connection


def told(connection):
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_failed_handshakes_are_answered_and_unfinished_ones_are_swept(server):
    with ExitStack() as stack:
        failed = [opened(server, stack, WRONG[n % len(WRONG)]) for n in range(NUM_HANDSHAKES)]
        begun_s = time.monotonic()
        unfinished = [opened(server, stack, UNFINISHED[n % 3]) for n in range(NUM_HANDSHAKES)]
        for connection in failed:
            assert told(connection).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 426 "))
        for connection in unfinished:
            assert told(connection).startswith(b"HTTP/1.1 408 ")
        print(f"swept within {time.monotonic() - begun_s:.1f} s")
    assert httpx.get(server.url + "/healthz").status_code == 200


def test_a_stop_answers_all_that_is_in_flight_whatever_handshakes_are_open(server):
    steps = json.dumps({"step": 0, "observations": [[1.0, 2.0]] * 60_000, "emit": "all"}).encode()
    answers = []

    def work(number):
        with httpx.Client(base_url=server.url, timeout=DEADLINE_S) as client:
            body = OPEN | {"session": f"s{number}"}
            client.post("/v1/sessions", json=body).raise_for_status()
            ready.wait(DEADLINE_S)
            answers.append(
                client.post(
                    f"/v1/sessions/s{number}/steps",
                    content=steps,
                    headers={"Content-Type": "application/json"},
                ).status_code
            )

    num_workers = 3
    ready = threading.Barrier(num_workers + 1)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_workers)]
    try:
        for thread in threads:
            thread.start()
        with ExitStack() as stack:
            ready.wait(DEADLINE_S)
            for number in range(NUM_HANDSHAKES):
                opened(server, stack, (WRONG + UNFINISHED)[number % 8])
            # One more, answered: what was sent before it has been read.
            select.select([opened(server, stack, WRONG[0])], [], [], DEADLINE_S)
            assert answers == [], "the work was too short to be in flight"
            assert server.stop() == 0
    finally:
        ready.abort()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert answers == [200] * num_workers
    assert "Traceback" not in server.log.read_text()
