"""The Idempotency-Key header, as a client meets it, on every way that a request may come."""

import json

import pytest

from tests.api.support import listening, serving

OPEN = {"model": "load", "version": "1", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}
KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}


async def open_session(client, name="s", **fields):
    body = OPEN | {"session": name} | fields
    (await client.post("/v1/sessions", json=body)).raise_for_status()


@pytest.mark.parametrize("how", [serving, listening], ids=["ASGI", "socket"])
async def test_a_step_without_a_number_is_applied_once_under_its_key(how):
    async with how() as client:
        await open_session(client)
        path = "/v1/sessions/s/steps"
        first = await client.post(path, json=STEP, headers=KEY)
        again = await client.post(path, json=STEP, headers=KEY)
        assert first.json()["step"] == 1
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert again.content == first.content
        assert (await client.get("/v1/sessions/s")).json()["step"] == 1
        other = await client.post(path, json={"observations": [[9, 9]]}, headers=KEY)
        assert (other.status_code, other.json()["type"]) == (409, "urn:carry:digest-mismatch")
        assert (await client.post(path, json=STEP)).json()["step"] == 2


async def test_a_number_counts_before_a_key(client):
    await open_session(client)
    path = "/v1/sessions/s/steps"
    for step in (0, 1):
        answer = await client.post(path, json=STEP | {"step": step}, headers=KEY)
        assert answer.json()["step"] == step + 1


async def test_a_preview_under_a_key_is_never_taken_for_a_step(client):
    await open_session(client)
    for _ in range(2):
        tried = await client.post("/v1/sessions/s/preview", json=STEP, headers=KEY)
        assert tried.json()["step"] == 1
    assert (await client.post("/v1/sessions/s/steps", json=STEP, headers=KEY)).json()["step"] == 1


@pytest.mark.parametrize("num_rows", [1, 30_000], ids=["small", "big"])
async def test_a_session_without_a_name_is_opened_once_under_its_key(client, num_rows):
    history = {"observations": [[1.5, 2.5]] * num_rows}
    assert (len(json.dumps(history)) > 2**18) == (num_rows > 1)
    body = OPEN | {"history": history}
    first, again = [await client.post("/v1/sessions", json=body, headers=KEY) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["session"] == first.json()["session"]
    assert len((await client.get("/v1/sessions")).json()["sessions"]) == 1
    other = await client.post("/v1/sessions", json=body | {"ttl_s": 5}, headers=KEY)
    assert (other.status_code, other.json()["type"]) == (409, "urn:carry:digest-mismatch")
    fresh = await client.post("/v1/sessions", json=body, headers={"Idempotency-Key": "other"})
    assert fresh.json()["session"] != first.json()["session"]


async def test_a_name_counts_before_a_key(client):
    for name in ("a", "b"):
        await open_session(client, name)
        answer = await client.post("/v1/sessions", json=OPEN | {"session": name}, headers=KEY)
        assert answer.json()["session"] == name


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a\tb"])
async def test_a_key_that_cannot_be_one_is_refused(client, key):
    await open_session(client)
    for path, body in (("/v1/sessions/s/steps", STEP), ("/v1/sessions", OPEN)):
        answer = await client.post(path, json=body, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:carry:invalid-input")
        assert "Idempotency-Key" in answer.json()["detail"]
