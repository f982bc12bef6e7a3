"""Writing over HTTP: as one answer, or as events while it is written."""

import asyncio
import json
from dataclasses import replace

import pytest

from tests.api.support import listening, serving
from tests.fakes.bundles import CHARACTERS

EVENTS = {"Accept": "text/event-stream"}
ASKED = {"text": "ab", "max_tokens": 30, "temperature": 1.0, "seed": 5}


def events_of(response):
    """Names and data of server-sent events."""
    found = []
    for block in response.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


async def opened(client, name="v", **fields):
    answer = await client.post("/v1/sessions", json={"model": "verse", "session": name} | fields)
    assert answer.status_code == 201, answer.text


async def test_a_session_writes_and_a_retry_is_answered_alike(client):
    await opened(client)
    first = await client.post("/v1/sessions/v/generate", json=ASKED | {"step": 0})
    assert first.status_code == 200, first.text
    body = first.json()
    assert set(body["text"]) <= set(CHARACTERS)
    assert 1 <= len(body["text"]) <= 30
    assert body["step"] == 1
    assert body["prediction"]["next"] == next(iter(body["prediction"]["probabilities"]))
    again = await client.post("/v1/sessions/v/generate", json=ASKED | {"step": 0})
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.content == first.content
    other = await client.post("/v1/sessions/v/generate", json=ASKED | {"step": 0, "seed": 6})
    assert other.status_code == 409
    assert other.json()["type"] == "urn:carry:digest-mismatch"


async def test_events_are_the_answer_a_character_at_a_time():
    async with listening() as client:
        await opened(client, "whole")
        await opened(client, "heard")
        whole = (await client.post("/v1/sessions/whole/generate", json=ASKED)).json()
        heard = await client.post(
            "/v1/sessions/heard/generate", json=ASKED | {"step": 0}, headers=EVENTS
        )
        assert heard.headers["content-type"].startswith("text/event-stream")
        *characters, (last, answer) = events_of(heard)
        assert last == "done"
        assert answer["text"] == whole["text"]
        assert [data["text"] for _, data in characters] == list(whole["text"])
        replayed = await client.post(
            "/v1/sessions/heard/generate", json=ASKED | {"step": 0}, headers=EVENTS
        )
        assert replayed.headers["Idempotent-Replayed"] == "true"
        assert [name for name, _ in events_of(replayed)] == ["text", "done"]
        assert events_of(replayed)[-1] == (last, answer)


async def test_characters_come_before_the_text_is_committed():
    async with listening() as client:
        await opened(client)
        store = client.app.app.state.context.engine.store
        commit, held = store.commit, asyncio.Event()

        async def hold(writes):
            await held.wait()
            return await commit(writes)

        store.commit = hold
        asked = client.stream("POST", "/v1/sessions/v/generate", json=ASKED, headers=EVENTS)
        async with asyncio.timeout(10), asked as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "event: text"
            held.set()
            assert "event: done" in [line async for line in lines]


async def test_an_error_before_the_first_character_keeps_its_status(client):
    await opened(client)
    answer = await client.post("/v1/sessions/v/generate", json={"step": 3}, headers=EVENTS)
    assert answer.status_code == 409
    assert answer.json()["expected_step"] == 0
    answer = await client.post("/v1/sessions/v/generate", json={"text": "x"})
    assert answer.status_code == 422
    assert "characters that this model knows" in answer.json()["detail"]


async def test_an_error_behind_the_first_character_is_the_last_event():
    async with serving() as client:
        await opened(client)
        store = client.app.app.state.context.engine.store

        async def lose(writes):
            raise OSError("gone")

        store.commit = lose
        answer = await client.post("/v1/sessions/v/generate", json=ASKED, headers=EVENTS)
        name, problem = events_of(answer)[-1]
        assert (name, problem["status"]) == ("error", 503)


async def test_without_a_session_prompts_are_written_on(client):
    instances = [
        {"id": "a", "prompt": "ab", "max_tokens": 5, "temperature": 0},
        {"max_tokens": 5, "temperature": 0},
    ]
    url = "/v1/models/verse/predict"
    whole = (await client.post(url, json={"instances": instances})).json()["predictions"]
    assert whole[0]["id"] == "a"
    assert all(1 <= len(each["text"]) <= 5 for each in whole)
    events = events_of(await client.post(url, json={"instances": instances}, headers=EVENTS))
    for index, each in enumerate(whole):
        parts = [d["text"] for name, d in events[:-1] if name == "text" and d["index"] == index]
        assert "".join(parts) == each["text"]
    assert events[-1][1]["predictions"] == whole


@pytest.mark.parametrize(
    ("model", "instance", "told"),
    [
        ("verse", {"prompt": "ab", "max_tokens": 2049}, "2049: expected at most 2048"),
        ("verse", {"observations": [[1.0]]}, 'reads "prompt"'),
        ("mood", {"text": "good", "max_tokens": 3}, "does not write"),
        ("load", {"prompt": "a", "observations": [[1.0, 2.0]]}, "does not write"),
    ],
)
async def test_what_does_not_fit_the_model_is_refused_by_name(model, instance, told):
    async with serving() as client:
        answer = await client.post(
            f"/v1/models/{model}/predict", json={"instances": [{"start": "2020-01-01"} | instance]}
        )
        assert answer.status_code == 422
        assert told in answer.json()["detail"]


async def test_a_session_of_a_model_that_does_not_write_says_so(client):
    await client.post("/v1/sessions", json={"model": "mood", "session": "m"})
    answer = await client.post("/v1/sessions/m/generate", json={})
    assert answer.status_code == 422
    assert "does not write" in answer.json()["detail"]


async def test_writing_stops_at_the_deadline():
    async with serving() as client:
        await opened(client)
        engine = client.app.context.engine
        engine.limits = replace(engine.limits, request_timeout_s=0.05)
        worker = engine.workers.of(engine.registry.get("verse"))
        # Full stops are never chosen, so it would write on for a long time.
        worker.model.codec.end_token = None
        try:
            asked = {"step": 0, "max_tokens": 2048}
            answer = await client.post("/v1/sessions/v/generate", json=asked)
        finally:
            worker.model.codec.end_token = CHARACTERS.index(".")
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:carry:deadline-exceeded"
        assert (await client.get("/v1/sessions/v")).json()["step"] == 0


async def test_a_tagger_labels_every_row(client):
    await client.post("/v1/sessions", json={"model": "phase", "session": "p"})
    rows = [[0.1, 1.0], [2.0, None], [-1.0, 0.5]]
    whole = await client.post(
        "/v1/models/phase/predict", json={"instances": [{"observations": rows}]}
    )
    [prediction] = whole.json()["predictions"]
    assert len(prediction["labels"]) == 3
    one = await client.post("/v1/sessions/p/steps", json={"step": 0, "observations": rows[:1]})
    two = await client.post("/v1/sessions/p/steps", json={"step": 1, "observations": rows[1:]})
    streamed = [one.json()["prediction"], two.json()["prediction"]]
    assert [label for each in streamed for label in each["labels"]] == prediction["labels"]
    for each in prediction["probabilities"]:
        assert sum(each.values()) == pytest.approx(1, abs=1e-5)
