"""WebSocket handshakes that come to nothing, against the real service, while it works and stops."""

import json
import signal
import socket
import time
from contextlib import ExitStack, contextmanager

import httpx

from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster

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


@contextmanager
def serving(folder, **settings):
    write_forecaster(folder / "models")
    settings |= {"models": folder / "models", "store": f"sqlite:///{folder}/carry.db"}
    with running_server(folder, **settings) as server:
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


def test_failed_handshakes_are_answered_and_unfinished_ones_are_swept(tmp_path):
    with serving(tmp_path, read_timeout_s=2.0) as server, ExitStack() as stack:
        failed = [opened(server, stack, WRONG[n % len(WRONG)]) for n in range(NUM_HANDSHAKES)]
        unfinished = [opened(server, stack, UNFINISHED[n % 3]) for n in range(NUM_HANDSHAKES)]
        for connection in failed:
            assert told(connection).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 426 "))
        for connection in unfinished:
            assert told(connection).startswith(b"HTTP/1.1 408 ")
        assert httpx.get(server.url + "/healthz").status_code == 200


def test_a_stop_answers_all_that_is_in_flight_whatever_handshakes_are_open(tmp_path):
    """In flight are steps, on the fast path and not, whose bodies are not whole before the stop."""
    body = json.dumps({"observations": [[1.0, 2.0]]}).encode()
    with serving(tmp_path) as server, ExitStack() as stack:
        working = []
        for query in (b"", b"?x=1") * 5:
            head = (
                b"POST /v1/sessions/s/steps%s HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            ) % (query, len(body))
            working.append(opened(server, stack, head + body[:5]))
        for number in range(NUM_HANDSHAKES):
            opened(server, stack, (WRONG + UNFINISHED)[number % 8])
        # One more request, answered: what was sent before it has been read.
        httpx.get(server.url + "/healthz").raise_for_status()
        server.process.send_signal(signal.SIGTERM)
        wait_until_closed(server)
        for connection in working:
            connection.sendall(body[5:])
        for connection in working:
            assert told(connection).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(DEADLINE_S) == 0
    assert "Traceback" not in server.log.read_text()


def wait_until_closed(server):
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        except OSError:
            return
    raise AssertionError("the service still listens")
