"""HEAD is answered wherever GET is: as GET, without the body."""

import asyncio

import httpx
import pytest

from tests.api.keys import headers, keys_file
from tests.api.support import listening

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}
NAMES = {"{session}": "s", "{model}": "load", "{name}": "load", "{version}": "1"}
ANEW = {"date", "x-request-id", "traceresponse"}
UNDOCUMENTED = ["/", "/docs", "/redoc", "/openapi.json", "/asyncapi.json", "/metrics"]


@pytest.fixture
async def client():
    async with listening() as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        yield client


async def paths_of(client):
    """Every path that answers GET, with names in the place of parameters."""
    document = (await client.get("/openapi.json")).json()
    paths = [path for path, methods in document["paths"].items() if "get" in methods]
    for parameter, name in NAMES.items():
        paths = [path.replace(parameter, name) for path in paths]
    assert not any("{" in path for path in paths)
    return sorted({*paths, *UNDOCUMENTED})


async def test_head_is_as_get_without_the_body_on_every_path(client):
    paths = await paths_of(client)
    assert {"/healthz", "/readyz", "/v1/models", "/v1/sessions/s", "/v2/health/ready"} <= {*paths}
    for path in paths:
        async with client.stream("GET", path) as got:  # events have no end
            pass
        head = await client.head(path)
        assert (path, head.status_code) == (path, got.status_code)
        assert head.content == b""
        told = {name: value for name, value in head.headers.items() if name not in ANEW}
        expected = {name: value for name, value in got.headers.items() if name not in ANEW}
        expected.pop("transfer-encoding", None)
        if path.startswith(("/metrics", "/v1/sessions")):  # figures and ages differ each time
            assert told.pop("content-length", "") != "0"
            expected.pop("content-length", None)
        assert (path, told) == (path, expected)


async def test_no_byte_follows_the_head(client):
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    for path in ("/readyz", "/docs", "/v1/sessions/s/events", "/v1/sessions/nobody", "/healthz"):
        writer.write(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ")  # and not the rest of the body before
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"}")).endswith(b'{"status":"alive"}')
    writer.close()


async def test_the_head_of_events_opens_no_stream(client):
    answer = await client.head("/v1/sessions/s/events")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert not client.app.context.open_streams


async def test_a_refused_head_is_refused_as_get_is(client, tmp_path):
    path, keys = keys_file(tmp_path, ada="user")
    async with listening(api_keys_file=path) as guarded:
        assert (await guarded.head("/v1/models")).status_code == 401
        known = await guarded.head("/v1/models", headers=headers(keys["ada"]))
        assert known.status_code == 200
    assert (await client.head("/nowhere")).status_code == 404
    assert (await client.head("/v1/sessions/s/steps")).status_code == 405


@pytest.mark.parametrize("path", ["/v1/models", "/readyz", "/v1/sessions/s/events"])
async def test_a_wrong_method_is_told_of_both(client, path):
    answer: httpx.Response = await client.patch(path)
    assert answer.status_code == 405
    assert {"GET", "HEAD"} <= {*answer.headers["allow"].split(", ")}
