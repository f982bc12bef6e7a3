"""Big bodies are read beside the event loop, with the same answers."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from service.api import body_reader
from service.api.body_reader import BIG_BODY_BYTES
from tests.api.support import listening, serving, until

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}
ROWS = [[index % 7, None] for index in range(30_000)]
JSON = {"content-type": "application/json"}
PADDING = b" " * BIG_BODY_BYTES
ZEROS = b"0" * 400


async def post(client, path, content):
    return await client.post(path, content=content, headers=JSON)


def comparable(answer):
    """Without the server's clock, names that it chose, and pydantic's words for Python."""
    own = ("session", "expires_at", "request_id")
    told = {k: v for k, v in answer.json().items() if k not in own}
    if told.get("errors") or answer.status_code == 400:
        told.pop("detail")
        told["errors"] = [each["place"] for each in told.get("errors", [])]
    return answer.status_code, answer.headers["content-type"], told


REQUESTS = [
    ("/v1/sessions", b'{"model": "load", "history": {"start": "2016-08-22", "observations": %s}}'),
    ("/v1/sessions", b'{"model": "nobody", "history": {"observations": %s}}'),
    ("/v1/sessions", b'{"model": "load", "replay": 1%s, "history": {"observations": %%s}}' % ZEROS),
    ("/v1/sessions", b'{"model": "mood", "start": 5, "history": {"observations": %s}}'),
    ("/v1/sessions/s/steps", b'{"step": 0, "observations": %s}'),
    ("/v1/sessions/s/steps", b'{"step": 9, "observations": %s}'),
    ("/v1/sessions/s/preview", b'{"observations": %s, "emit": "all"}'),
    ("/v1/sessions/s/preview", b'{"observations": %s, "final": true}'),
    ("/v1/models/load/predict", b'{"instances": [{"start": "2016-08-22", "observations": %s}]}'),
    ("/v1/models/load/versions/1/predict", b'{"instances": [{"id": "a", "text": %s}]}'),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
@pytest.mark.parametrize("rows", [b'[[1, 2], {"temp": 3}]', b"[[1, 2], [3]]", b'["x"]', b"[1e39"])
async def test_a_big_body_is_answered_like_a_small_one(path, body, rows):
    told = []
    for padding in (b"", PADDING):
        async with serving() as client:
            await client.post("/v1/sessions", json=OPEN)
            answer = await post(client, path, body % rows + padding)
            has_process = client.app.context.reader._process is not None
            assert has_process is bool(padding)
            told.append(comparable(answer))
    assert told[0] == told[1]


@pytest.mark.parametrize("path", ["/v1/sessions/nobody/steps", "/v1/models/nobody/predict"])
async def test_a_big_body_for_nothing_is_not_even_read(client, path):
    answer = await post(client, path, b"[" + PADDING)
    assert answer.status_code == 404


@pytest.fixture
async def client():
    """A server that has read one big body."""
    async with listening() as client:
        await client.post("/v1/sessions", json=OPEN)
        first = await client.post("/v1/sessions/s/steps", json={"observations": ROWS})
        assert first.status_code == 200
        yield client


def signal_reader(client, which):
    os.kill(client.app.context.reader._process.pid, which)


async def test_other_steps_are_answered_while_a_big_body_is_read(client):
    signal_reader(client, signal.SIGSTOP)
    big = asyncio.create_task(client.post("/v1/sessions/s/preview", json={"observations": ROWS}))
    await until(lambda: client.app.context.reader._num_waiting == 1)
    for step in range(len(ROWS), len(ROWS) + 20):
        body = {"step": step, "observations": [[1, 2]]}
        assert (await client.post("/v1/sessions/s/steps", json=body)).status_code == 200
    assert not big.done()
    signal_reader(client, signal.SIGCONT)
    assert (await big).status_code == 200


async def test_a_killed_reader_fails_its_request_and_is_replaced(client):
    signal_reader(client, signal.SIGSTOP)
    body = {"step": len(ROWS), "observations": ROWS}
    big = asyncio.create_task(client.post("/v1/sessions/s/steps", json=body))
    await until(lambda: client.app.context.reader._num_waiting == 1)
    signal_reader(client, signal.SIGKILL)
    answer = await big
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "nothing was applied" in answer.json()["detail"]
    again = await client.post("/v1/sessions/s/steps", json=body)
    assert again.json()["step"] == 2 * len(ROWS)


async def test_too_many_big_bodies_are_told_to_come_back(client, monkeypatch):
    monkeypatch.setattr(body_reader, "MAX_WAITING", 0)
    answer = await client.post("/v1/sessions/s/preview", json={"observations": ROWS})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


async def test_a_shutdown_lets_a_big_body_be_read_and_ends_the_reader(client):
    reader = client.app.context.reader
    process = reader._process
    signal_reader(client, signal.SIGSTOP)
    big = asyncio.create_task(client.post("/v1/sessions/s/preview", json={"observations": ROWS}))
    await until(lambda: reader._num_waiting == 1)
    signal_reader(client, signal.SIGTERM)  # as a supervisor that signals the whole group does
    client.server.should_exit = True
    await until(lambda: not client.server.servers[0].is_serving())
    signal_reader(client, signal.SIGCONT)
    assert (await big).status_code == 200
    await until(lambda: reader._process is None)
    assert process.poll() is not None


def test_the_reader_brings_neither_a_web_framework_nor_a_runtime():
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, service.api.decode, service.api.body_reader_process;"
            "print({'fastapi', 'starlette', 'uvicorn', 'onnxruntime'} & set(sys.modules))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "set()\n"


async def test_a_client_may_leave_a_big_body_half_sent(client):
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = b"POST /v1/sessions/s/steps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(head + b"Content-Length: 9999999\r\n\r\n" + PADDING)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await until(lambda: len(client.server.server_state.connections) == 1)
    assert (await client.get("/readyz")).status_code == 200
