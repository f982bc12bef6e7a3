"""Where a request ends, in which order answers leave, and what ends a connection."""

import asyncio
import socket
from contextlib import asynccontextmanager
from itertools import product

import pytest
import structlog

from service.api.http import half_closed
from service.api.http.connection import MAX_HEAD_BYTES
from tests.api.support import listening, until
from tests.api.test_protocol import JSON, OPEN, PATH, answer, body, connected, plain

METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


@pytest.fixture
async def client():
    async with listening() as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        yield client


@asynccontextmanager
async def paused(client, monkeypatch):
    """Steps are committed when this ends."""
    store, opened = client.app.context.engine.store, asyncio.Event()
    commit = store.commit

    async def held(writes):
        await opened.wait()
        return await commit(writes)

    monkeypatch.setattr(store, "commit", held)
    try:
        yield
    finally:
        opened.set()


async def statuses(reader):
    """Of all that is answered until the server closes."""
    found = []
    while True:
        try:
            found.append((await answer(reader))[0])
        except asyncio.IncompleteReadError as error:
            return found if error.partial == b"" else [*found, error.partial]


UPGRADES = {
    "h2c": H2C,
    "two lines": b"Connection: upgrade\r\nConnection: keep-alive\r\nUpgrade: h2c\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "two": b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
    "another": b"Connection: Upgrade\r\nUpgrade: TLS/1.0, IRC/6.9\r\n",
}


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
async def test_an_upgrade_that_is_no_handshake_is_ignored(client, upgrade):
    """However its body is framed and split, and though the body looks like a request."""
    num_steps = 0
    async with connected(client) as (reader, writer):
        for is_chunked, split in product((False, True), ("whole", "head", "bytes")):
            for is_step in (True, False, True):
                data = body(num_steps) if is_step else METRICS
                framing = b"Content-Length: %d\r\n\r\n" % len(data)
                if is_chunked:
                    framing = b"Transfer-Encoding: chunked\r\n\r\n"
                    data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
                head = PATH + JSON + upgrade + framing
                pieces = {"whole": [head + data], "head": [head, data]}
                for piece in pieces.get(split, [bytes([byte]) for byte in head + data]):
                    await feed(client, writer, piece)
                assert (await answer(reader))[0] == (200 if is_step else 400)
                num_steps += is_step
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert await statuses(reader) == [200]
    assert (await client.get("/v1/sessions/s")).json()["step"] == num_steps == 12


async def feed(client, writer, data):
    """Let the service read `data` in one piece."""
    here = writer.get_extra_info("sockname")
    for connection in client.server.server_state.connections:
        if connection.transport.get_extra_info("peername") == here:
            connection.data_received(data)
            return
    await asyncio.sleep(0.005)
    await feed(client, writer, data)


async def test_an_upgrade_is_ignored_among_pipelined_requests(client):
    async with connected(client) as (reader, writer):
        upgrading = PATH + JSON + H2C
        writer.write(plain(0) + plain(1, upgrading) + plain(2, upgrading) + plain(3))
        assert [(await answer(reader))[2]["step"] for _ in range(4)] == [1, 2, 3, 4]


async def test_trailers_are_no_headers(client):
    data = body(0)
    chunks = b"%x\r\n%s\r\n0\r\nContent-Type: text/plain\r\nIdempotency-Key: k\r\n" % (
        len(data), data,
    )  # fmt: skip
    async with connected(client) as (reader, writer):
        writer.write(PATH + JSON + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"\r\n")
        assert (await answer(reader))[0] == 200


@pytest.mark.parametrize("before", [b"0\r\nX: ", b"1;x="], ids=["trailer", "extension"])
async def test_trailers_and_extensions_are_bounded_as_a_head_is(client, before):
    async with connected(client) as (reader, writer):
        head = PATH + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
        for piece in (head, before, b"x" * MAX_HEAD_BYTES):
            await feed(client, writer, piece)
        assert await statuses(reader) == [431]


GARBAGE = b"GARBAGE\r\n\r\n"
LARGE = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (GARBAGE, 400),
        (LARGE, 431),
        (PATH + JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (PATH + JSON + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 400),
        (HANDSHAKE.replace(b"13", b"12") + b"\r\n", 400),
        (HANDSHAKE + b"Content-Length: 1\r\n\r\n", 400),
    ],
    ids=["garbage", "head", "chunk", "framing", "connect", "version", "body"],
)
async def test_whole_requests_are_answered_before_what_ends_their_connection(
    client, monkeypatch, ending, status
):
    async with connected(client) as (reader, writer):
        async with paused(client, monkeypatch):
            await feed(client, writer, plain(0) + plain(1) + ending + plain(2))
        assert await statuses(reader) == [200, 200, status]
    assert (await client.get("/v1/sessions/s")).json()["step"] == 2


async def test_a_handshake_waits_for_the_answers_before_it(client, monkeypatch):
    async with connected(client) as (reader, writer):
        async with paused(client, monkeypatch):
            await feed(client, writer, plain(0) + HANDSHAKE + b"\r\n")
        assert (await answer(reader))[2]["step"] == 1
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")


async def test_a_half_closed_client_gets_its_answers(client, monkeypatch):
    async with connected(client) as (reader, writer):
        async with paused(client, monkeypatch):
            writer.write(plain(0) + plain(1) + METRICS.replace(b"metrics", b"healthz"))
            writer.write_eof()
        assert await statuses(reader) == [200, 200, 200]


async def test_a_half_closed_client_is_told_of_a_request_that_is_not_whole(client):
    async with connected(client) as (reader, writer):
        writer.write(plain(0) + plain(1)[:-1])
        writer.write_eof()
        assert await statuses(reader) == [200, 400]
    assert (await client.get("/v1/sessions/s")).json()["step"] == 1


async def test_a_half_closed_client_that_waits_long_is_asked_whether_it_is_there(
    client, monkeypatch
):
    monkeypatch.setattr(half_closed, "_PROBE_S", 0.01)
    async with connected(client) as (reader, writer):
        async with paused(client, monkeypatch):
            writer.write(plain(0))
            writer.write_eof()
            assert b" 102 " in await reader.readuntil(b"\r\n\r\n")
        while (head := await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 102 "):
            pass
        assert head.startswith(b"HTTP/1.1 200 ")


async def test_a_half_closed_listener_goes_on_and_one_that_left_does_not(client, monkeypatch):
    monkeypatch.setattr(half_closed, "_PROBE_S", 0.1)
    gauge = client.app.context.metrics._streams_open.labels("events")
    ask = b"GET /v1/sessions/s/events HTTP/1.1\r\nHost: x\r\n\r\n"
    async with connected(client) as (reader, writer):
        writer.write(ask)
        await reader.readuntil(b"event: open")
        writer.write_eof()
        await reader.readuntil(b"\r\n:\n\n\r\n")  # asks whether it is there
        (
            await client.post("/v1/sessions/s/steps", json={"observations": [[1, 2]]})
        ).raise_for_status()
        await reader.readuntil(b"event: step")
    await until(lambda: gauge._value.get() == 0)


HEADS = {
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "bad host": (b"GET /healthz HTTP/1.1\r\nHost: x y\r\n\r\n", 400),
    "no host in 1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
    "2.0": (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 400),
    "0.9": (b"GET /healthz HTTP/0.9\r\nHost: x\r\n\r\n", 400),
    "coding": (PATH + JSON + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked 1.0": (
        PATH.replace(b"1.1", b"1.0") + JSON + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two kinds": (plain(0, PATH + JSON + b"Content-Type: text/plain\r\n"), 400),
    "one kind twice": (plain(0, PATH + JSON + JSON), 200),
    "two keys": (plain(0, PATH + JSON + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n"), 400),
    "latin-1": (plain(0, PATH + b"Content-Type: application/json; Charset=latin-1\r\n"), 415),
    "utf-8 and latin-1": (
        plain(0, PATH + b"Content-Type: application/json; charset=utf-8; charset=latin-1\r\n"),
        415,
    ),
    "utf-8": (plain(0, PATH + b'Content-Type: application/json; charset="UTF-8"\r\n'), 200),
    "v2": (
        plain(0, b"POST /v2/models/load/infer HTTP/1.1\r\nHost: x\r\n"
        b"Content-Type: application/json;charset=utf-16\r\n"),
        415,
    ),
    "handshake": (HANDSHAKE.replace(b"Host: x\r\n", b"") + b"\r\n", 400),
}  # fmt: skip


async def test_a_head_that_two_could_read_in_two_ways_is_refused(client):
    num_steps = 0
    for name, (data, status) in HEADS.items():
        async with connected(client) as (reader, writer):
            writer.write(data.replace(b'"step": 0', b'"step": %d' % num_steps))
            found, headers, told = await answer(reader)
            assert found == status, (name, told)
            is_problem = headers["content-type"].startswith("application/problem")
            assert is_problem is (status >= 400 and b"/v2" not in data), name
        num_steps += status == 200 and b"POST" in data
    assert (await client.get("/v1/sessions/s")).json()["step"] == num_steps


async def test_malformed_connections_are_logged_once_in_a_while(client):
    with structlog.testing.capture_logs() as logs:
        for _ in range(20):
            async with connected(client) as (reader, writer):
                writer.write(GARBAGE)
                assert await statuses(reader) == [400]
    assert [each["event"] for each in logs] == ["connections were closed for malformed requests"]


async def test_nobody_is_redirected(client):
    answer = await client.post("/v1/sessions/", json=OPEN)
    assert (answer.status_code, answer.headers.get("location")) == (404, None)


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/sessions/s/stream", "/v1/sessions/n/stream"])
async def test_a_plain_get_of_a_stream_is_told_to_upgrade(client, path):
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["type"]) == (426, "urn:carry:upgrade-required")
    assert answer.headers["upgrade"] == "websocket"
    assert "Upgrade" in answer.headers["connection"]
    assert (await client.post(path, json={})).status_code == 405


BAD_HANDSHAKES = {
    "length": (b"Host: x", b"Host: x\r\nContent-Length: 1"),
    "chunked": (b"Host: x", b"Host: x\r\nTransfer-Encoding: chunked"),
    "long line": (b"Host: x", b"Host: x\r\nX: " + b"y" * 9000),
    "many lines": (b"Host: x", b"Host: x\r\n" + b"X: y\r\n" * 200 + b"Y: y"),
    "version": (b"13", b"99"),
    "no key": (b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n", b""),
    "key": (b"MDEyMzQ1Njc4OWFiY2RlZg==", b"%%%"),
    "two keys": (b"Host: x", b"Host: x\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="),
    "two versions": (b"Host: x", b"Host: x\r\nSec-WebSocket-Version: 13"),
    "1.0": (b"HTTP/1.1", b"HTTP/1.0"),
    "post": (b"GET", b"POST"),
    "path": (b"/v1/stream", b"/v1/sessions/%00/stream"),
}


async def test_every_bad_handshake_is_answered_and_its_connection_ends(client):
    for name, (before, after) in BAD_HANDSHAKES.items():
        async with connected(client) as (reader, writer):
            writer.write(HANDSHAKE.replace(before, after, 1) + b"\r\n")
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            found = await statuses(reader)
        assert found[0] in (400, 404, 405, 426), name
        assert found[1:] in ([], [200]), name  # ignored, of HTTP/1.0 or of a POST: HTTP goes on
    await until(lambda: len(client.server.server_state.connections) == 1)


async def test_a_failing_shutdown_of_one_connection_stops_no_other(client, monkeypatch):
    async with connected(client) as (reader, writer), connected(client) as (_, other):
        async with paused(client, monkeypatch):
            await feed(client, other, b"")
            await feed(client, writer, plain(0))
            here = other.get_extra_info("sockname")
            for each in client.server.server_state.connections:
                if each.transport.get_extra_info("peername") == here:
                    each.cycle = object()  # a defect
            client.server.should_exit = True
            await until(lambda: not client.server.servers[0].is_serving())
        assert (await answer(reader))[2]["step"] == 1


async def test_a_client_that_resets_is_gone_at_once(client):
    connections = client.server.server_state.connections
    async with connected(client) as (_, writer):
        await feed(client, writer, b"")
        num_open = len(connections)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        await until(lambda: len(connections) < num_open)
