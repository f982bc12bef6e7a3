"""Clients that are slow, greedy or malformed, against the real service."""

import gzip
import json
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.server import ROOT, running_server
from tests.fakes.bundles import write_forecaster

OPEN = {"model": "load", "session": "s", "start": "2016-08-22"}
READ_TIMEOUT_S = 1.0
MAX_CONNECTIONS = 40
POST = b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
STEP = b"POST /v1/sessions/s/steps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("abuse")
    write_forecaster(folder / "models")
    with running_server(
        folder,
        models=folder / "models",
        store="memory://",
        read_timeout_s=READ_TIMEOUT_S,
        max_connections=MAX_CONNECTIONS,
        log_format="json",
    ) as server:
        httpx.post(server.url + "/v1/sessions", json=OPEN).raise_for_status()
        yield server


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def told(connection):
    """All that is answered until the server closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def trickle(connection, data):
    """Send byte after byte until the server has had enough; what it said."""
    deadline = time.monotonic() + 20
    connection.settimeout(0.05)
    for byte in data:
        assert time.monotonic() < deadline, "the server still listens"
        try:
            connection.sendall(bytes([byte]))
            if part := connection.recv(65536):
                connection.settimeout(20)
                return part + told(connection)
        except TimeoutError:
            continue
        except OSError:
            pass
        return b""
    raise AssertionError("everything was sent")


@pytest.mark.parametrize(
    "start",
    [POST, POST + b"Content-Length: 500\r\n\r\n", STEP + b"Content-Length: 500\r\n\r\n"],
    ids=["head", "body", "body of a step"],
)
def test_a_request_that_trickles_in_is_cut_off(server, start):
    with connect(server) as connection:
        connection.sendall(start)
        answer = trickle(connection, b"x" * 400)
    if start != POST + b"Content-Length: 500\r\n\r\n":  # where a route has begun it is just cut
        assert answer.startswith(b"HTTP/1.1 408 "), answer
        assert b"urn:carry:slow-request" in answer


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
def test_a_connection_that_asks_nothing_is_closed(server, sent):
    with connect(server) as connection:
        connection.sendall(sent)
        assert told(connection) == b""


def test_an_answer_that_nobody_reads_ends_its_connection(server):
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        deadline = time.monotonic() + 20
        try:
            while time.monotonic() < deadline:
                connection.sendall(ask * 100)
        except ConnectionError:  # reset, while we go on asking
            return
        raise AssertionError("the server still keeps answers for somebody who reads none")


def test_a_head_without_end_is_refused_while_it_comes(server):
    with connect(server) as connection:
        connection.sendall(POST)
        try:
            for _ in range(3000):
                connection.sendall(b"X-Filler: " + b"y" * 1000 + b"\r\n")
            raise AssertionError("3 MB of headers were read")
        except OSError:
            pass
    with connect(server) as connection:
        connection.sendall(POST + b"X: " + b"y" * 70_000 + b"\r\n\r\n")
        assert told(connection).startswith(b"HTTP/1.1 431 ")


def test_connections_beyond_the_bound_are_told_so_and_the_others_go_on(server):
    with ExitStack() as opened, httpx.Client(base_url=server.url) as client:
        assert client.get("/healthz").status_code == 200
        crowd = [opened.enter_context(connect(server)) for _ in range(2 * MAX_CONNECTIONS)]
        last = told(crowd[-1])
        assert last.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in last.lower()
        assert client.get("/healthz").status_code == 200
    wait_until_served(server)


def wait_until_served(server):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if httpx.get(server.url + "/healthz").status_code == 200:
                return
        except httpx.TransportError:
            pass
    raise AssertionError("the server did not come back")


@pytest.mark.parametrize(
    ("limits", "fits"), [((256, 256), 192), ((256, 512), 448), ((1024, 1024), 900)]
)
def test_no_more_connections_are_taken_than_files_may_be_open(limits, fits):
    ask = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, {limits});"
        "from service.api.http.connection_limits import allow_descriptors;"
        "print(allow_descriptors(900))"
    )
    command = [sys.executable, "-c", ask]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == str(fits)


def test_a_hundred_megabytes_are_refused_unread(server):
    with connect(server) as connection:
        connection.sendall(POST + b"Content-Length: 104857600\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_hundred_megabytes_that_nobody_announced_are_refused_on_the_way(server):
    def chunks():
        for _ in range(100):
            yield b" " * 2**20

    headers = {"Content-Type": "application/json"}
    try:
        status = httpx.post(server.url + "/v1/sessions", content=chunks(), headers=headers)
        assert status.status_code == 413
    except httpx.TransportError:
        pass  # closed while it was still sending
    wait_until_served(server)


def test_a_bomb_is_not_unpacked(server):
    bomb = gzip.compress(b"[" + b"0," * 5_000_000 + b"0]")
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    for path in ("/v1/sessions", "/v1/sessions/s/steps", "/v1/models/load/predict"):
        answer = httpx.post(server.url + path, content=bomb, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (
            415,
            "urn:carry:unsupported-media-type",
        )


@pytest.mark.parametrize(
    "path", ["/v1/sessions", "/v1/sessions/s/steps", "/v1/models/load/predict"]
)
@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 400_000])
def test_json_of_any_depth_is_refused(server, path, data):
    headers = {"Content-Type": "application/json"}
    # The first such body starts the process that reads them.
    answer = httpx.post(server.url + path, content=data, headers=headers, timeout=60)
    assert answer.status_code in (400, 413, 422), answer.text
    assert answer.json()["status"] == answer.status_code


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/../../etc/passwd",
        "/v1/models/load/versions/..%2f..%2f..%2fetc",
        "/v1/models/%00",
        "/static-offline-docs/../../../etc/passwd",
        "/static-offline-docs/..%2f..%2f..%2fetc/passwd",
        "/static-offline-docs/%2e%2e/%2e%2e/api.py",
    ],
)
def test_a_path_leads_nowhere_but_to_names(server, path):
    with connect(server) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = told(connection)
    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), answer
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".", "a%0d%0aX-Evil:1", "ä", "a b", "x" * 129, "%00"]
)
def test_names_that_are_none_are_refused(server, name):
    raw = name.replace("%0d%0a", "\r\n").replace("%00", "\0")
    answer = httpx.post(server.url + "/v1/sessions", json=OPEN | {"session": raw})
    assert answer.status_code == 422, answer.text
    assert "x-evil" not in answer.headers
    raw_step = b"POST /v1/sessions/" + name.replace(" ", "%20").replace("ä", "%C3%A4").encode()
    with connect(server) as connection:
        connection.sendall(raw_step + STEP[len(b"POST /v1/sessions/s") :] + b"Content-Length: 2\r\n"
                           b"Connection: close\r\n\r\n{}")  # fmt: skip
        answer = told(connection)
    assert answer[:12] in (b"HTTP/1.1 404", b"HTTP/1.1 422", b"HTTP/1.1 307"), answer
    assert b"\r\nx-evil" not in answer.lower()


@pytest.mark.parametrize("value", [b"a\rX-Evil: 1", b"a\nX-Evil: 1", b"a\0b", b"a%0d%0aX-Evil:1"])
@pytest.mark.parametrize("name", [b"X-Request-ID", b"Idempotency-Key", b"Origin", b"traceparent"])
def test_no_header_of_a_request_makes_one_of_an_answer(server, name, value):
    with connect(server) as connection:
        head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        connection.sendall(head + name + b": " + value + b"\r\n\r\n")
        answer = told(connection)
    head, _, _ = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), answer
    names = [line.partition(b":")[0].strip().lower() for line in re.split(rb"[\r\n]+", head)[1:]]
    assert b"x-evil" not in names


def test_a_log_line_stays_one_line_whatever_was_sent(server):
    forged = "load%0a{%22event%22:%22forged%22}"
    assert httpx.get(server.url + f"/v1/models/{forged}").status_code == 404
    body = OPEN | {"model": 'x\n{"event": "forged"}'}
    assert httpx.post(server.url + "/v1/sessions", json=body).status_code == 404
    for line in server.log.read_text().splitlines():
        assert json.loads(line)["event"] != "forged"


def test_answers_tell_browsers_what_to_leave_and_nobody_the_version(server):
    page = httpx.get(server.url + "/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    data = httpx.get(server.url + "/v1/models")
    assert data.headers["content-security-policy"].startswith("default-src 'none'")
    step = httpx.post(server.url + "/v1/sessions/s/steps", json={"observations": [[1, 2]]})
    for answer in (page, data, step):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
    for answer in (page, data):
        assert answer.headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in answer.headers
