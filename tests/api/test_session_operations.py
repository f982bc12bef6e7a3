"""Fork, rewind, snapshot, restore and upgrade, as a client meets them."""

import pytest

from service.api import schemas

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}
ROW = {"observations": [[1, 2]]}


async def open_session(client, num_steps=0, **fields):
    (await client.post("/v1/sessions", json=OPEN | fields)).raise_for_status()
    for step in range(num_steps):
        (await client.post("/v1/sessions/s/steps", json=ROW | {"step": step})).raise_for_status()


def code(answer):
    schemas.Problem.model_validate(answer.json(), extra="forbid")
    return answer.status_code, answer.json()["type"].removeprefix("urn:carry:")


async def test_a_fork_is_a_session_of_its_own(client):
    await open_session(client, 2)
    forked = await client.post("/v1/sessions/s/fork", json={"session": "t", "ttl_s": 9})
    assert (forked.status_code, forked.headers["location"]) == (201, "/v1/sessions/t")
    schemas.SessionAnswer.model_validate(forked.json(), extra="forbid")
    assert (forked.json()["session"], forked.json()["step"]) == ("t", 2)
    again = await client.post("/v1/sessions/s/fork", json={"session": "t", "ttl_s": 9})
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    other = await client.post("/v1/sessions/s/fork", json={"session": "t"})
    assert code(other) == (409, "session-exists")
    steps = [await client.post(f"/v1/sessions/{n}/steps", json=ROW | {"step": 2}) for n in "st"]
    assert steps[0].json()["prediction"] == steps[1].json()["prediction"]
    assert steps[1].json()["prediction"]["start"] == "2016-08-25T00:00:00Z"


async def test_forks_without_a_name_are_many_or_under_one_key_one(client):
    await open_session(client)
    names = set()
    for headers in ({}, {}, {"Idempotency-Key": "a"}, {"Idempotency-Key": "a"}):
        answer = await client.post("/v1/sessions/s/fork", json={}, headers=headers)
        assert answer.status_code == 201
        names.add(answer.json()["session"])
    assert len(names) == 3


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"session": "a/b"}, 422),
        ({"ttl_s": 1e12}, 422),
        ({"ttl_s": 0}, 422),
        ({"metadata": {"a": "x" * 20_000}}, 422),
        ({"step": 1}, 422),
    ],
)
async def test_a_fork_that_cannot_be_is_refused(client, body, status):
    await open_session(client)
    assert (await client.post("/v1/sessions/s/fork", json=body)).status_code == status
    assert code(await client.post("/v1/sessions/nobody/fork", json={})) == (
        404,
        "session-not-found",
    )


async def test_a_session_goes_back_to_a_checkpoint(client):
    await open_session(client, 4, checkpoints=2)
    detail = (await client.get("/v1/sessions/s")).json()
    assert detail["checkpoints"] == [2, 3]
    gone = await client.post("/v1/sessions/s/rewind", json={"step": 1})
    assert code(gone) == (409, "checkpoint-gone")
    assert (gone.json()["kept_steps"], gone.json()["expected_step"]) == ([2, 3], 4)
    back = await client.post("/v1/sessions/s/rewind", json={"step": 2})
    assert (back.status_code, back.json()["step"]) == (200, 2)
    schemas.SessionAnswer.model_validate(back.json(), extra="forbid")
    late = await client.post("/v1/sessions/s/steps", json=ROW | {"step": 3})
    assert code(late) == (409, "step-conflict")
    assert (await client.post("/v1/sessions/s/steps", json=ROW | {"step": 2})).json()["step"] == 3


@pytest.mark.parametrize("body", [{}, {"step": -1}, {"step": "2"}, {"step": 1, "more": 1}])
async def test_a_rewind_says_to_which_step(client, body):
    await open_session(client, 1, checkpoints=2)
    assert code(await client.post("/v1/sessions/s/rewind", json=body)) == (422, "invalid-input")


@pytest.mark.parametrize(
    ("field", "value"), [("checkpoints", 65), ("keep_observations", 4097), ("checkpoint_every", 0)]
)
async def test_more_than_the_settings_allow_is_not_kept(client, field, value):
    answer = await client.post("/v1/sessions", json=OPEN | {field: value})
    assert code(answer) == (422, "invalid-input")
    assert field in answer.json()["detail"]


async def test_operations_are_counted(client):
    await open_session(client, 2, checkpoints=2)
    await client.post("/v1/sessions/s/fork", json={})
    await client.post("/v1/sessions/s/rewind", json={"step": 1})
    text = (await client.get("/metrics")).text
    for operation in ("fork", "rewind"):
        labels = f'{{model="load",operation="{operation}",version="1"}}'
        assert f"carry_session_operations_total{labels} 1.0" in text
