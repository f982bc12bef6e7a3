"""Every answer says which request it belongs to, whichever way the request went."""

import json

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from service.api.http.protocol import MAX_HEAD_BYTES
from service.api.request_scope import MAX_ID_CHARS, request_id_of
from service.engine.engine import Engine
from service.engine.inference.worker import Worker
from tests.api.keys import keys_file
from tests.api.support import listening
from tests.api.test_protocol import JSON, OPEN, PATH, answer, connected, plain

ID = "a-1:b/c=d@e+f_g.h~"
STEP = {"observations": [[1, 2]]}
ENDLESS = b"GET / HTTP/1.1\r\na: " + b"x" * MAX_HEAD_BYTES


@pytest.fixture
async def client():
    async with listening() as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        yield client


WAYS = {
    "step": ("POST", "/v1/sessions/s/steps", STEP, 200),
    "step with a key": ("POST", "/v1/sessions/s/steps?x=1", STEP, 200),
    "refused step": ("POST", "/v1/sessions/s/steps", STEP | {"step": 9}, 409),
    "step of nobody": ("POST", "/v1/sessions/none/steps", STEP, 404),
    "unfit step": ("POST", "/v1/sessions/s/steps", {"observations": "x"}, 422),
    "route": ("GET", "/v1/sessions/s", None, 200),
    "no path": ("GET", "/nowhere", None, 404),
    "no method": ("PATCH", "/v1/sessions", None, 405),
    "probe": ("GET", "/readyz", None, 200),
    "metrics": ("GET", "/metrics", None, 200),
    "open inference": ("GET", "/v2/models/load", None, 200),
    "its error": ("GET", "/v2/models/none", None, 404),
}


@pytest.mark.parametrize("way", WAYS)
async def test_the_id_of_a_request_comes_back(client, way):
    method, path, body, status = WAYS[way]
    got = await client.request(method, path, json=body, headers={"X-Request-ID": ID})
    assert got.status_code == status
    assert got.headers.get_list("x-request-id") == [ID]
    if got.headers["content-type"] == "application/problem+json":
        assert got.json()["request_id"] == ID


@pytest.mark.parametrize("way", WAYS)
async def test_a_request_without_an_id_gets_one_of_its_own(client, way):
    method, path, body, _ = WAYS[way]
    ids = {
        (await client.request(method, path, json=body)).headers["x-request-id"] for _ in range(3)
    }
    assert len(ids) == 3
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in ids)


async def test_a_stream_of_events_has_an_id(client):
    asked = client.stream("GET", "/v1/sessions/s/events", headers={"X-Request-ID": ID})
    async with asked as events:
        assert events.headers["x-request-id"] == ID


async def test_a_websocket_has_an_id_and_its_problems_name_it(client):
    url = f"ws://127.0.0.1:{client.port}/v1/sessions/s/stream"
    async with connect(url, additional_headers={"X-Request-ID": ID}) as socket:
        assert socket.response.headers["X-Request-ID"] == ID
        await socket.recv()
        await socket.send(json.dumps(STEP | {"step": 9}))
        assert json.loads(await socket.recv())["request_id"] == ID
        await socket.send("{}")
        assert json.loads(await socket.recv())["request_id"] == ID


async def test_a_refused_websocket_says_its_id(client):
    url = f"ws://127.0.0.1:{client.port}/v1/sessions/none/stream"
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, additional_headers={"X-Request-ID": ID})
    response = refused.value.response
    assert response.headers["X-Request-ID"] == ID
    assert json.loads(response.body)["request_id"] == ID


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"nothing that is HTTP\r\n\r\n", 400), (ENDLESS, 431)],
    ids=["no HTTP", "no end"],
)  # fmt: skip
async def test_what_is_no_request_gets_an_id_and_a_problem(client, sent, status):
    async with connected(client) as (reader, writer):
        writer.write(sent)
        got, headers, problem = await answer(reader)
    assert got == status
    assert len(headers["x-request-id"]) == 32
    assert problem["request_id"] == headers["x-request-id"]


async def test_a_key_that_is_refused_gets_an_id(tmp_path):
    file, _ = keys_file(tmp_path, acme="user")
    async with listening(api_keys_file=file) as client:
        got = await client.get("/v1/sessions", headers={"X-Request-ID": ID})
        assert (got.status_code, got.json()["request_id"]) == (401, ID)


@pytest.mark.parametrize(
    "said",
    [b"", b"a b", b'"', b"{}", b"\xc3\xa9", b"a" * (MAX_ID_CHARS + 1), b"a\tb", b"<script>"],
)
async def test_an_id_that_does_not_fit_is_replaced(client, said):
    async with connected(client) as (reader, writer):
        writer.write(plain(0, PATH + JSON + b"X-Request-ID: %s\r\n" % said))
        _, headers, _ = await answer(reader)
    assert len(headers["x-request-id"]) == 32


@given(st.binary(max_size=200))
def test_whatever_is_said_an_id_is_one_short_word(said):
    assert request_id_of(said).isascii()
    assert request_id_of(said).isprintable()
    assert 0 < len(request_id_of(said)) <= MAX_ID_CHARS
    assert not set(request_id_of(said)) & set(" \"'\\{}<>,;")


@pytest.mark.parametrize("path", ["/v1/sessions/s/steps", "/v1/sessions/s/steps?x=1"])
async def test_the_log_of_a_failure_names_request_session_and_model(client, monkeypatch, path):
    await client.post(path, json=STEP)

    def fail(self, key, request, timing=None):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(Engine, "submit", fail)
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        got = await client.post(path, json=STEP, headers={"X-Request-ID": ID})
    assert (got.status_code, got.json()["request_id"]) == (500, ID)
    assert {entry["event"] for entry in logs} >= {"unexpected error", "slow or failed request"}
    for entry in logs:
        assert (entry["request_id"], entry["session"]) == (ID, "s")
    [line] = [entry for entry in logs if entry["event"] == "slow or failed request"]
    assert (line["model"], line["version"], line["tenant"]) == ("load", "1", "default")


async def test_what_is_bound_to_a_request_ends_with_it(client, monkeypatch):
    await client.post("/v1/sessions/s/steps", json=STEP)  # from here on its model is known
    monkeypatch.setattr(Worker, "refuse_if_full", None)  # a defect on the fast path
    async with connected(client) as (reader, writer):
        writer.write(plain(0, PATH + JSON + b"X-Request-ID: first\r\n"))
        assert (await answer(reader))[2]["request_id"] == "first"
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        _, headers, problem = await answer(reader)
    assert problem["request_id"] == headers["x-request-id"] != "first"
