"""Big bodies are read beside the event loop, with the same answers."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from service.api import limits
from service.api.body_reader import reader as body_reader
from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.codec.validation import refuse_crowded
from service.errors import TooLargeError
from service.settings import Settings
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


async def test_a_reader_that_is_killed_is_replaced_and_costs_no_request(client):
    body = {"step": len(ROWS), "observations": ROWS}
    signal_reader(client, signal.SIGSTOP)
    big = asyncio.create_task(client.post("/v1/sessions/s/steps", json=body))
    await until(lambda: client.app.context.reader._num_waiting == 1)
    signal_reader(client, signal.SIGKILL)
    assert (await big).json()["step"] == 2 * len(ROWS)


async def test_a_reader_that_ended_while_it_was_idle_costs_no_request(client):
    process = client.app.context.reader._process
    signal_reader(client, signal.SIGKILL)
    process.wait()
    body = {"step": len(ROWS), "observations": ROWS}
    again = await client.post("/v1/sessions/s/steps", json=body)
    assert again.json()["step"] == 2 * len(ROWS)


async def test_where_every_reader_ends_the_request_is_told_to_come_back(client, monkeypatch):
    monkeypatch.setattr(body_reader, "_start", lambda _: subprocess.Popen(
        [sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE))  # fmt: skip
    client.app.context.reader._stop()
    answer = await client.post("/v1/sessions/s/preview", json={"observations": ROWS})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "nothing was applied" in answer.json()["detail"]


def start_bounded(bound):
    """A reader whose processes have another bound than they would have."""
    program = f"from service.api.body_reader import process as it\n{bound}\nit.main()"

    def start(max_body_bytes):
        return subprocess.Popen(
            [sys.executable, "-c", program, str(max_body_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    return start


LITTLE_MEMORY = "it.BYTES_PER_BYTE = 0; it.ROOM_BYTES = 24 * 2**20"


@pytest.mark.parametrize("bound", ["it.MAX_CPU_S = 0.002", LITTLE_MEMORY], ids=["time", "memory"])
async def test_a_body_that_takes_too_long_or_too_much_is_413_and_the_next_is_read(
    client, monkeypatch, bound
):
    reader = client.app.context.reader
    with monkeypatch.context() as patch:
        patch.setattr(body_reader, "_start", start_bounded(bound))
        reader._stop()
        lists = b'{"tensors": {"x": [%s]}}' % b",".join([b"[0]"] * 300_000)
        answer = await post(client, "/v1/sessions/s/preview", lists)
        assert answer.status_code == 413
        assert answer.json()["type"] == "urn:carry:too-large"
    reader._stop()
    assert (await client.post("/v1/sessions/s/preview", json={"observations": ROWS})).is_success


async def test_a_reader_that_is_left_with_much_memory_is_replaced(client, monkeypatch):
    reader = client.app.context.reader
    monkeypatch.setattr(body_reader, "_start", start_bounded("it._MOST_LEFT_BYTES = 0"))
    reader._stop()
    for _ in range(2):
        answer = await client.post("/v1/sessions/s/preview", json={"observations": ROWS})
        assert answer.is_success
        assert reader._process is None


CROWDS = {
    "instances": ("/v1/models/load/predict", b'{"instances": [%s]}', b"{}"),
    "rows": ("/v1/sessions/s/steps", b'{"observations": [%s]}', b"[]"),
    "lists in tensors": ("/v1/sessions/s/steps", b'{"tensors": {"x": [%s]}}', b"[]"),
    "history": ("/v1/sessions", b'{"model": "load", "history": {"observations": [%s]}}', b"[]"),
    "series": ("/v1/timeseries/forecast", b'{"model": "load", "inputs": [%s]}', b"{}"),
}


@pytest.mark.parametrize(("path", "body", "item"), CROWDS.values(), ids=CROWDS)
async def test_a_crowd_of_nothing_is_counted_before_anything_is_made_of_it(
    client, path, body, item, monkeypatch
):
    """Of more than the process could hold, were it made."""
    reader = client.app.context.reader
    monkeypatch.setattr(body_reader, "_start", start_bounded("it.BYTES_PER_BYTE = 8"))
    reader._stop()
    data = body % b",".join([item] * 5_000_000)
    answer = await post(client, path, data)
    assert answer.status_code == 413, answer.text
    assert "the body has 50" in answer.json()["detail"]


def test_objects_and_lists_are_counted_outside_of_texts(monkeypatch):
    monkeypatch.setattr(limits, "MAX_ROWS", 10)
    monkeypatch.setattr(limits, "MAX_INSTANCES", 1)
    settings = Settings(max_body_bytes=1024)  # 27 in all
    for text in (b"{" * 50, rb"[\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\", rb"\\\"" + b"{" * 40):
        refuse_crowded(b'{"text": "' + text + b'"}', settings)
    refuse_crowded(b"[" * 27, settings)
    with pytest.raises(TooLargeError, match="28 objects and lists: expected at most 27"):
        refuse_crowded(b"[" * 28, settings)
    with pytest.raises(TooLargeError):
        refuse_crowded(b'{"a\\\\": [%s]}' % (b"{}," * 30), settings)


async def test_a_small_body_that_is_a_crowd_does_not_hold_up_the_loop(client):
    reader = client.app.context.reader
    for path, body in (
        ("/v1/models/load/predict", b'{"instances": [%s]}' % b",".join([b"{}"] * 80_000)),
        ("/v1/sessions/s/steps", b'{"observations": [%s]}' % b",".join([b"1"] * 100_000)),
    ):
        assert len(body) <= BIG_BODY_BYTES
        signal_reader(client, signal.SIGSTOP)
        big = asyncio.create_task(post(client, path, body))
        await until(lambda: reader._num_waiting == 1)
        assert (await client.get("/healthz")).is_success
        signal_reader(client, signal.SIGCONT)
        assert (await big).status_code in (413, 422)


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
            "import sys, service.api.codec.decode, service.api.body_reader.process;"
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
