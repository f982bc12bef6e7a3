"""What a client and an orchestrator see of a server that is full, failing or stopped."""

import asyncio

import pytest
import structlog

from service.api.body_reader.reader import BIG_BODY_BYTES
from service.api.sessions.bulk import ARROW
from service.engine.dispatch import session_queues as queues
from service.errors import StoreUnavailableError
from tests.api.support import listening, serving, until

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}


async def test_a_dead_task_is_neither_alive_nor_ready(client, monkeypatch):
    def explode():
        raise RuntimeError("defect")

    await client.post("/v1/sessions", json=OPEN)
    engine = client.app.context.engine
    worker = engine.workers.of(engine.registry.get("load", "1"))
    monkeypatch.setattr(worker, "_begin", explode)
    failed = await client.post("/v1/sessions/s/steps", json=STEP)
    assert (failed.status_code, failed.json()["type"]) == (500, "urn:carry:model-failed")
    alive, ready = await client.get("/healthz"), await client.get("/readyz")
    assert (alive.status_code, ready.status_code) == (500, 503)
    assert "restart the server" in alive.json()["detail"]
    assert "defect" not in alive.text + ready.text + failed.text


async def test_a_store_that_cannot_be_written_is_alive_but_not_ready(client, monkeypatch):
    async def refuse():
        raise StoreUnavailableError("the disk is full", retry_after_s=1)

    monkeypatch.setattr(client.app.context.engine.store, "check", refuse)
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
    assert ready.json()["detail"] == "the disk is full"
    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/sessions/s/steps", "/v1/sessions/s/preview"])
async def test_a_body_that_announces_too_much_is_refused_unread(path):
    num_reads = 0

    async def body():
        nonlocal num_reads
        num_reads += 1
        yield b"{}"

    async with serving(max_body_bytes=1024) as client:
        headers = {"content-type": "application/json", "content-length": "1025"}
        answer = await client.post(path, content=body(), headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:carry:too-large")
        assert num_reads == 0


async def test_a_full_queue_says_when_to_try_again(client, monkeypatch):
    await client.post("/v1/sessions", json=OPEN)
    monkeypatch.setattr(queues, "_MAX_WAITING_TURNS", 2)
    steps = [client.post("/v1/sessions/s/steps", json=STEP) for _ in range(3)]
    *accepted, refused = await asyncio.gather(*steps)
    assert [answer.status_code for answer in accepted] == [200, 200]
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


async def test_a_store_that_is_away_says_when_to_try_again(client, monkeypatch):
    async def refuse(_):
        raise StoreUnavailableError("away", retry_after_s=1.2)

    await client.post("/v1/sessions", json=OPEN)
    monkeypatch.setattr(client.app.context.engine.store, "commit", refuse)
    for path in ("/v1/sessions/s/steps", "/v1/sessions"):
        body = STEP if "steps" in path else OPEN | {"session": "other"}
        answer = await client.post(path, json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize("num_announced", [100, BIG_BODY_BYTES + 1])
@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/v1/steps", "application/json"),
        ("POST", "/v1/steps", ARROW),
        ("POST", "/v1/sessions", "application/json"),
        ("POST", "/v1/sessions/s/steps?x=1", "application/json"),
        ("POST", "/v1/models/load/predict", "application/json"),
        ("POST", "/v1/timeseries/forecast", "application/json"),
        ("PUT", "/v1/sessions/s/snapshot", "application/octet-stream"),
        ("POST", "/v2/models/load/infer?x=1", "application/json"),
    ],
)
async def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_failure(
    tmp_path, method, path, kind, num_announced
):
    (tmp_path / "keys").write_text("k" * 32)
    async with listening(snapshot_key_file=tmp_path / "keys") as client:
        tasks = client.server.server_state.tasks
        with structlog.testing.capture_logs() as logs:
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
            writer.write(f"{head}Content-Length: {num_announced}\r\n\r\n{{".encode())
            await until(lambda: tasks)
            writer.close()
            await until(lambda: not tasks)
        assert [each for each in logs if each["log_level"] == "error"] == []
        assert 'status="5' not in (await client.get("/metrics")).text
