"""Steps over real sockets: whichever way a request goes, the client sees the same HTTP."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.http import half_closed
from service.api.http.fast_path import FastPath
from service.api.http.protocol import MAX_HEAD_BYTES
from tests.api.support import listening, until

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}
PATH = b"POST /v1/sessions/s/steps HTTP/1.1\r\nHost: x\r\n"
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture
async def client():
    async with listening() as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        yield client


@asynccontextmanager
async def connected(client):
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    yield reader, writer
    writer.close()


def body(step, **more):
    return json.dumps({"step": step, "observations": [[1, 2]]} | more).encode()


def plain(step, head=PATH + JSON, **more):
    data = body(step, **more)
    return head + b"Content-Length: %d\r\n\r\n" % len(data) + data


async def answer(reader):
    """Status, headers and JSON of one answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    data = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, json.loads(data)


def short_way_taken(monkeypatch):
    """Paths of the requests that took the fast path, in order."""
    taken = []
    ordinary = FastPath.begin

    def note(self, operation, headers, on_answer):
        taken.append(operation.path)
        return ordinary(self, operation, headers, on_answer)

    monkeypatch.setattr(FastPath, "begin", note)
    return taken


async def test_a_plain_step_goes_the_short_way_and_its_connection_stays(client, monkeypatch):
    taken = short_way_taken(monkeypatch)
    async with connected(client) as (reader, writer):
        for step in range(3):
            writer.write(plain(step))
            status, headers, told = await answer(reader)
            assert (status, told["step"]) == (200, step + 1)
            assert headers["content-type"] == "application/json"
            assert "date" in headers
            assert "connection" not in headers
    assert taken == ["/v1/sessions/s/steps"] * 3


DATA = body(0)
LENGTH = b"Content-Length: %d\r\n" % len(DATA)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(DATA), DATA)


@pytest.mark.parametrize(
    "request_bytes",
    [
        PATH + JSON + CHUNKED,
        PATH + JSON + LENGTH + b"Connection: close\r\n\r\n" + DATA,
        PATH.replace(b"1.1", b"1.0") + JSON + LENGTH + b"\r\n" + DATA,
        PATH.replace(b"/s/", b"/%73/") + JSON + LENGTH + b"\r\n" + DATA,
        PATH.replace(b"steps", b"steps?x=1") + JSON + LENGTH + b"\r\n" + DATA,
        PATH + b"Content-Type: APPLICATION/json;x=y\r\n" + LENGTH + b"\r\n" + DATA,
        PATH + JSON + LENGTH + b"Accept: a\r\nAccept: b\r\n\r\n" + DATA,
        PATH + JSON + b"Content-Length: %d\r\n\r\n" % (len(DATA) + BIG_BODY_BYTES)
        + DATA + b" " * BIG_BODY_BYTES,
    ],
    ids=["chunked", "closing", "1.0", "escaped", "query", "kind", "twice", "long"],
)  # fmt: skip
async def test_an_unusual_step_goes_the_ordinary_way(client, monkeypatch, request_bytes):
    taken = short_way_taken(monkeypatch)
    async with connected(client) as (reader, writer):
        writer.write(request_bytes)
        status, headers, told = await answer(reader)
        assert (status, told["step"]) == (200, 1)
        closes = b"close" in request_bytes or b"HTTP/1.0" in request_bytes
        assert ("connection" in headers) is closes
        assert not closes or await reader.read() == b""
    assert taken == []


@pytest.mark.parametrize("query", [b"", b"?x=1"], ids=["plain", "ordinary"])
async def test_a_length_may_begin_with_any_number_of_zeros(client, query):
    head = PATH.replace(b"steps", b"steps" + query) + JSON
    async with connected(client) as (reader, writer):
        for step in range(2):
            length = b"%s%d\r\n\r\n" % (b"0" * 5000, len(body(step)))
            writer.write(head + b"Content-Length: " + length + body(step))
            status, _, told = await answer(reader)
            assert (status, told["step"]) == (200, step + 1)


@pytest.mark.parametrize(
    "path", [b"/v1/sessions", b"/v1/sessions/s/steps", b"/v1/steps", b"/v1/models/load/predict"]
)
async def test_a_length_of_thousands_of_zeros_or_digits_is_no_failure(client, path):
    for length, expected in ((b"0" * 5000, {400, 422}), (b"0" * 5000 + b"9" * 18, {413})):
        async with connected(client) as (reader, writer):
            head = PATH.replace(b"/v1/sessions/s/steps", path) + JSON
            writer.write(head + b"Content-Length: " + length + b"\r\n\r\n")
            status, headers, _ = await answer(reader)
            assert status in expected
            assert headers["content-type"] == "application/problem+json"


async def test_a_client_that_waits_for_100_continue_gets_it(client):
    async with connected(client) as (reader, writer):
        writer.write(PATH + JSON + LENGTH + b"Expect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(DATA)
        assert (await answer(reader))[0] == 200


async def test_a_step_that_comes_byte_by_byte_is_one_step(client):
    async with connected(client) as (reader, writer):
        for byte in plain(0):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert (await answer(reader))[2]["step"] == 1


async def test_pipelined_requests_are_answered_in_their_order(client):
    read = b"GET /v1/sessions/s HTTP/1.1\r\nHost: x\r\n\r\n"
    async with connected(client) as (reader, writer):
        writer.write(plain(0) + plain(1) + read + plain(2) + plain(9) + plain(3))
        told = [await answer(reader) for _ in range(6)]
    assert [status for status, _, _ in told] == [200, 200, 200, 200, 409, 200]
    assert [each.get("step") for _, _, each in told] == [1, 2, 2, 3, None, 4]


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"{", 400), (body(9), 409), (body(0, emit="some"), 422), (b'{"text": "\\ud800"}', 422)],
)
async def test_both_ways_answer_a_mistake_alike(client, data, status):
    async with connected(client) as (reader, writer):
        told = []
        for unusual in (b"", b"Accept: a\r\nAccept: b\r\n"):
            head = PATH + JSON + b"X-Request-ID: r\r\n" + unusual
            writer.write(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
            told.append(await answer(reader))
    assert told[0] == told[1]
    assert told[0][0] == status
    assert told[0][1]["content-type"] == "application/problem+json"


async def test_what_is_refused_unread_is_counted(client):
    async with connected(client) as (reader, writer):
        writer.write(PATH + LENGTH + b"\r\n" + DATA)
        assert (await answer(reader))[0] == 415
    async with connected(client) as (reader, writer):
        writer.write(PATH + JSON + b"Content-Length: 99999999\r\n\r\n")
        assert (await answer(reader))[0] == 413
    text = (await client.get("/metrics")).text
    for status in (413, 415):
        assert f'route="/v1/sessions/{{session}}/steps",status="{status}"}} 1.0' in text


class _Gate:
    """Holds the commits of a store until it is opened."""

    def __init__(self, client, monkeypatch):
        store = client.app.context.engine.store
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        commit = store.commit

        async def held(writes):
            self.reached.set()
            await self.opened.wait()
            return await commit(writes)

        monkeypatch.setattr(store, "commit", held)


async def test_a_step_that_waits_is_dropped_when_its_client_leaves(client, monkeypatch):
    monkeypatch.setattr(half_closed, "_PROBE_S", 0.1)
    gate, begun = _Gate(client, monkeypatch), short_way_taken(monkeypatch)
    connections = client.server.server_state.connections
    async with connected(client) as (reader, writer):
        writer.write(plain(0))
        await gate.reached.wait()
        async with connected(client) as (_, waiting):
            waiting.write(plain(1))
            await until(lambda: len(begun) == 2)
            num_connections = len(connections)
        await until(lambda: len(connections) < num_connections)
        gate.opened.set()
        assert (await answer(reader))[2]["step"] == 1
    assert (await client.get("/v1/sessions/s")).json()["step"] == 1


async def test_a_step_that_is_being_committed_stays_when_its_client_leaves(client, monkeypatch):
    monkeypatch.setattr(half_closed, "_PROBE_S", 0.1)
    gate = _Gate(client, monkeypatch)
    connections = client.server.server_state.connections
    async with connected(client) as (_, writer):
        writer.write(plain(0))
        await gate.reached.wait()
        num_connections = len(connections)
    await until(lambda: len(connections) < num_connections)
    gate.opened.set()
    async with connected(client) as (reader, writer):
        writer.write(plain(0))
        _, headers, told = await answer(reader)
    assert (headers["idempotent-replayed"], told["step"]) == ("true", 1)


async def test_a_shutdown_answers_the_step_in_flight_and_closes_its_connection(client, monkeypatch):
    gate = _Gate(client, monkeypatch)
    async with connected(client) as (reader, writer):
        writer.write(plain(0))
        await gate.reached.wait()
        client.server.should_exit = True
        await until(lambda: not client.server.servers[0].is_serving())
        gate.opened.set()
        status, headers, told = await answer(reader)
        assert (status, headers["connection"], told["step"]) == (200, "close", 1)
        assert await reader.read() == b""


async def feed(client, writer, data):
    """Bring `data` in one piece, where a socket might cut it."""
    here, found = writer.get_extra_info("sockname"), []

    def is_found():
        connections = client.server.server_state.connections
        found[:] = [c for c in connections if c.transport.get_extra_info("peername") == here]
        return bool(found)

    await until(is_found)
    found[0].data_received(data)


LONG = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 15_000) for n in range(5))


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"DELETE /v1/sessions/s HTTP/1.1\r\nHost: x\r\n" + LONG + b"\r\n",
        PATH + JSON + LENGTH + LONG + b"\r\n" + DATA,
        PATH + JSON + LENGTH + LONG + b"\r\n" + DATA + plain(0),
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        + LONG + b"\r\n",
        b"GET /v1/models?" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["delete", "step", "pipelined", "upgrade", "line"],
)  # fmt: skip
async def test_what_is_refused_for_its_head_is_not_carried_out(client, request_bytes):
    async with connected(client) as (reader, writer):
        await feed(client, writer, request_bytes)
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (431, "close")
        assert await reader.read() == b""
    assert (await client.get("/v1/sessions/s")).json()["step"] == 0


@pytest.mark.parametrize(
    ("request_bytes", "num_answers"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2000, 2000),
        (plain(0, padding="x" * 90_000), 1),
    ],
    ids=["many", "long"],
)
async def test_only_a_head_is_measured_as_one(client, request_bytes, num_answers):
    """And neither what came before it in one piece, nor a body."""
    async with connected(client) as (reader, writer):
        await feed(client, writer, request_bytes + PATH)
        told = [(await answer(reader))[0] for _ in range(num_answers)]
        assert 431 not in told
        data = body(0)
        writer.write(JSON + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        assert (await answer(reader))[0] == 200
