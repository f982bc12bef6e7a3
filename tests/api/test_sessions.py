import asyncio
import json

import numpy as np
import pytest

from service.api import limits
from service.engine.session import inputs
from tests.api.support import serving

CREATE = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}


async def step(client, session="s", **body):
    return await client.post(f"/v1/sessions/{session}/steps", json=body)


async def test_the_life_of_a_session(client):
    opened = await client.post("/v1/sessions", json=CREATE)
    assert (opened.status_code, opened.headers["location"]) == (201, "/v1/sessions/s")
    assert opened.json().keys() == {"session", "model", "version", "step", "expires_at"}

    first = await step(client, step=0, observations=[[1, 2], {"load": 3}])
    assert first.json()["step"] == 2
    assert first.json()["prediction"]["start"] == "2016-08-24T00:00:00Z"

    again = await step(client, step=0, observations=[[1, 2], {"load": 3}])
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content

    detail = (await client.get("/v1/sessions/s")).json()
    assert (detail["step"], detail["model"], detail["state_bytes"]) == (2, "load", 16)
    assert detail["state_norms"]["state"] > 0
    assert detail["start"] == "2016-08-22T00:00:00Z"

    assert (await client.delete("/v1/sessions/s")).status_code == 204
    assert (await client.delete("/v1/sessions/s")).status_code == 204
    closed = await client.get("/v1/sessions/s")
    assert (closed.status_code, closed.json()["type"]) == (409, "urn:carry:session-closed")


async def test_history_gives_a_first_prediction(client):
    history = {"start": "2016-08-22", "observations": [[1, 2], [3, 4]]}
    opened = await client.post("/v1/sessions", json={"model": "load", "history": history})
    assert opened.json()["step"] == 2
    assert opened.json()["prediction"]["start"] == "2016-08-24T00:00:00Z"
    body = {"instances": [history]}
    whole = (await client.post("/v1/models/load/predict", json=body)).json()["predictions"][0]
    assert opened.json()["prediction"] == whole


async def test_creating_twice_with_one_name(client):
    assert (await client.post("/v1/sessions", json=CREATE)).status_code == 201
    again = await client.post("/v1/sessions", json=CREATE)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    other = await client.post("/v1/sessions", json=CREATE | {"start": "2016-08-23"})
    assert (other.status_code, other.json()["expected_step"]) == (409, 0)
    resumed = await client.post(
        "/v1/sessions", json=CREATE | {"start": "2016-08-23", "if_exists": "resume"}
    )
    assert resumed.status_code == 200


async def test_a_text_is_read_in_chunks_that_split_words(client):
    await client.post("/v1/sessions", json={"model": "mood", "session": "t"})
    text, sent = "a wonderful film, 정말 최고다 👍🏽", ""
    for count, chunk in enumerate((text[:6], text[6:20], text[20:])):
        sent += chunk
        streamed = (await step(client, "t", step=count, text=chunk)).json()["prediction"]
        body = {"instances": [{"text": sent}]}
        whole = (await client.post("/v1/models/mood/predict", json=body)).json()["predictions"][0]
        np.testing.assert_allclose(
            list(streamed["probabilities"].values()), list(whole["probabilities"].values()), 1e-4
        )
    final = await step(client, "t", step=3, text="", final=True)
    assert final.json()["step"] == 4
    assert (await step(client, "t", step=4, text="x")).status_code == 409


async def test_emit_all_answers_one_prediction_for_each_row(client):
    await client.post("/v1/sessions", json=CREATE)
    for observations in ([[1, 2]], [[1, 2], [3, 4], [5, None]]):
        answer = (await step(client, observations=observations, emit="all")).json()
        assert len(answer["predictions"]) == len(observations)
    starts = [forecast["start"][:10] for forecast in answer["predictions"]]
    assert starts == ["2016-08-24", "2016-08-25", "2016-08-26"]


async def test_a_preview_changes_nothing(client):
    await client.post("/v1/sessions", json=CREATE)
    preview = await client.post("/v1/sessions/s/preview", json={"observations": [[1, 2]]})
    assert preview.json()["step"] == 1
    assert (await client.get("/v1/sessions/s")).json()["step"] == 0
    done = await step(client, step=0, observations=[[1, 2]])
    assert done.json()["prediction"] == preview.json()["prediction"]


async def test_sessions_are_listed_by_pages_and_by_model(client):
    for place in range(5):
        model = "mood" if place == 2 else "load"
        body = {"model": model, "session": f"s{place}"} | (
            {} if place == 2 else {"start": "2020-01-01"}
        )
        assert (await client.post("/v1/sessions", json=body)).status_code == 201
    first = (await client.get("/v1/sessions", params={"limit": 3})).json()
    rest = (await client.get("/v1/sessions", params={"cursor": first["next_cursor"]})).json()
    names = [session["session"] for session in first["sessions"] + rest["sessions"]]
    assert names == ["s0", "s1", "s2", "s3", "s4"]
    assert rest["next_cursor"] is None
    mood = (await client.get("/v1/sessions", params={"model": "mood"})).json()
    assert [session["session"] for session in mood["sessions"]] == ["s2"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 422, "observations"),
        ({"observations": []}, 422, "is empty"),
        ({"text": "x"}, 422, 'reads "observations"'),
        ({"text": "x", "observations": [[1, 2]]}, 422, "alone"),
        ({"observations": [[1, 2]], "final": True}, 422, "DELETE"),
        ({"observations": [[1, 2]], "step": -1}, 422, "step"),
        ({"observations": [[1, 2]], "step": "0"}, 422, "step"),
        ({"observations": [[1, 2]], "step": 2**53}, 422, "step"),
        ({"observations": [[1, 2]], "step": 7}, 409, "expected step 0"),
        ({"observations": [[1, 2]], "emit": "some"}, 422, "emit"),
        ({"observations": [[1, 2]] * 11}, 413, "11 rows"),
    ],
)
async def test_a_refused_step_leaves_the_session_as_it_was(monkeypatch, body, status, told):
    monkeypatch.setattr(limits, "MAX_ROWS", 10)
    async with serving() as client:
        await client.post("/v1/sessions", json=CREATE)
        answer = await step(client, **body)
        assert answer.status_code == status
        assert told in answer.json()["detail"]
        assert (await client.get("/v1/sessions/s")).json()["step"] == 0


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"model": "none"}, 404, "no model"),
        ({"version": "9"}, 404, "no version"),
        ({"session": "a/b"}, 422, "session"),
        ({"session": "x" * 129}, 422, "session"),
        ({"session": ".."}, 422, "not valid names"),
        ({"ttl_s": 0}, 422, "ttl_s"),
        ({"ttl_s": 1e12}, 422, "ttl_s"),
        ({"start": None}, 422, "uses the time"),
        ({"replay": 65}, 422, "at most 64"),
        ({"replay": 10**400}, 422, "replay"),
        ({"checkpoints": 10**400}, 422, "checkpoints"),
        ({"keep_observations": 10**400}, 422, "keep_observations"),
        ({"checkpoints": 1, "checkpoint_every": 10**30}, 422, "checkpoint_every"),
        ({"history": {"start": "2016-08-23", "observations": [[1, 2]]}}, 422, "differ"),
        ({"history": {"observations": []}}, 422, "is empty"),
    ],
)
async def test_a_refused_creation_creates_nothing(client, change, status, told):
    answer = await client.post("/v1/sessions", json=CREATE | change)
    assert answer.status_code == status
    assert told in answer.json()["detail"]
    assert (await client.get("/v1/sessions")).json()["sessions"] == []


DEEP = "x"
for _ in range(17):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"\\ud800": 1}', "surrogate"),
        ('{"a": 1180591620717411303424}', "Integer exceeds"),
        (json.dumps({"a": DEEP}), "nested deeper"),
        ('{"a": NaN}', "not finite"),
        (json.dumps({"a": "x" * 20_000}), "at most 16384"),
    ],
)
async def test_metadata_that_cannot_be_kept_is_refused(client, raw, told):
    body = f'{{"model": "mood", "session": "s", "metadata": {raw}}}'
    headers = {"content-type": "application/json"}
    answer = await client.post("/v1/sessions", content=body, headers=headers)
    assert answer.status_code == 422
    assert told in answer.text
    assert (await client.get("/v1/sessions")).json()["sessions"] == []


async def test_half_a_surrogate_pair_is_refused_and_the_session_goes_on(client):
    await client.post("/v1/sessions", json={"model": "mood", "session": "t"})
    await step(client, "t", step=0, text="a")
    headers = {"content-type": "application/json"}
    for path in ("steps", "preview"):
        content = b'{"step": 0, "text": "\\ud800"}'
        answer = await client.post(f"/v1/sessions/t/{path}", content=content, headers=headers)
        assert answer.status_code == 422
        assert "surrogate" in answer.text
    assert (await step(client, "t", step=1, text="b")).json()["step"] == 2


@pytest.mark.parametrize("start", [5, "5", 1.5, True, "yesterday"])
async def test_a_start_is_a_written_time(client, start):
    answer = await client.post("/v1/sessions", json=CREATE | {"start": start})
    assert answer.status_code == 422
    assert "start" in answer.json()["detail"]


async def test_a_start_with_an_offset_is_that_instant(client):
    body = CREATE | {"start": "2016-08-22T09:00:00+09:00"}
    assert (await client.post("/v1/sessions", json=body)).status_code == 201
    assert (await client.get("/v1/sessions/s")).json()["start"] == "2016-08-22T00:00:00Z"


async def test_rows_past_the_last_year_are_refused_before_they_are_applied(client, monkeypatch):
    monkeypatch.setattr(inputs, "_LAST_TIME_S", 1_471_824_000 + 5 * 86_400)
    await client.post("/v1/sessions", json=CREATE)
    assert (await step(client, observations=[[1, 2]] * 5)).status_code == 200
    answer = await step(client, observations=[[1, 2]])
    assert (answer.status_code, (await client.get("/v1/sessions/s")).json()["step"]) == (422, 5)
    assert "after the year 9999" in answer.json()["detail"]


async def test_a_reply_beyond_the_limit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(limits, "MAX_REPLY_BYTES", 1024)
    async with serving() as client:
        await client.post("/v1/sessions", json=CREATE)
        answer = await step(client, observations=[[1, 2]] * 30, emit="all")
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:carry:too-large")
        assert (await step(client, step=0, observations=[[1, 2]] * 30)).json()["step"] == 30


async def test_the_model_of_a_session_made_anew_elsewhere_is_seen(tmp_path):
    store = f"sqlite:///{tmp_path}/s.db"
    async with serving(store=store) as one, serving(store=store) as two:
        await one.post("/v1/sessions", json={"model": "mood", "session": "s"})
        await step(one, text="a")
        await two.delete("/v1/sessions/s")
        await two.post("/v1/sessions", json=CREATE)
        assert (await step(one, step=0, observations=[[1, 2]])).json()["step"] == 1


async def test_a_last_page_that_is_full_has_no_next(client):
    for place in range(4):
        await client.post("/v1/sessions", json=CREATE | {"session": f"s{place}"})
    first = (await client.get("/v1/sessions", params={"limit": 2})).json()
    assert first["next_cursor"] == "s1"
    last = (await client.get("/v1/sessions", params={"limit": 2, "cursor": "s1"})).json()
    assert (len(last["sessions"]), last["next_cursor"]) == (2, None)


@pytest.mark.parametrize("method", ["get", "delete"])
async def test_a_session_that_never_was(client, method):
    answer = await client.request(method, "/v1/sessions/nobody")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:carry:session-not-found")


async def test_steps_of_two_clients_at_once_are_applied_once_each(client):
    await client.post("/v1/sessions", json=CREATE)
    await asyncio.gather(*(step(client, observations=[[n, n]]) for n in range(20)))
    assert (await client.get("/v1/sessions/s")).json()["step"] == 20
