"""Models that write about a vector: what they read first, what they write, and what is refused."""

import asyncio
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from service.contract.sampling import Draws, choose
from service.contract.text import UNREAD
from service.engine.models.registry import load_registry
from tests.api.support import listening, serving
from tests.api.test_generate import EVENTS, events_of
from tests.fakes.bundles import CHARACTERS, write_captioner, write_classifier, write_generator

RED, GREEN = [1.5, -0.5, 0.25], [-1.0, 2.0, 0.5]
URL = "/v1/models/label/predict"
SAMPLED = {"max_tokens": 21, "temperature": 1.0, "seed": 5}


@pytest.fixture(scope="module")
def models():
    folder = Path(mkdtemp(prefix="carry-models-"))
    write_captioner(folder)
    write_captioner(folder, version="2")
    write_generator(folder)
    write_classifier(folder)
    return folder


@pytest.fixture
async def client(models):
    async with serving(models=models) as client:
        yield client


async def opened(client, name="v", model="label", **fields):
    body = {"model": model, "session": name} | fields
    answer = await client.post("/v1/sessions", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def generated(client, name="v", **fields):
    answer = await client.post(f"/v1/sessions/{name}/generate", json=SAMPLED | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def by_hand(models, vector, step):
    """What the graph alone writes about a vector: one bare call for each step."""
    model = load_registry(models, "cpu", 1).get("label", "1")

    def call(token, x, row):
        feeds = {"tokens": np.array([[token]]), "x": np.array([[x]], np.float32)}
        feeds |= {"length": np.array([1])} | model.layout.gather([row])
        answers = model.runner.call(feeds)
        return answers["logits"][0, 0], model.layout.scatter(answers)[0]

    nothing = [np.nan] * 3
    _, row = call(0, vector, model.layout.initial_row)
    draws, text = Draws(SAMPLED["seed"], step), ""
    [token] = model.codec.feed(UNREAD, "").tail
    while len(text) < SAMPLED["max_tokens"] and not text.endswith("."):
        logits, row = call(token, nothing, row)
        token = choose(logits, SAMPLED["temperature"], draws)
        text += CHARACTERS[token]
    return text


async def test_it_writes_about_a_vector_what_the_graph_alone_would(client, models):
    instances = [{"observations": [vector]} | SAMPLED for vector in (RED, GREEN)]
    answer = await client.post("/v1/models/label/versions/1/predict", json={"instances": instances})
    assert answer.status_code == 200, answer.text
    texts = [each["text"] for each in answer.json()["predictions"]]
    assert texts == [by_hand(models, RED, 0), by_hand(models, GREEN, 0)]
    assert texts[0] != texts[1]
    await opened(client)
    assert (await generated(client, observations=[RED]))["text"] == texts[0]


async def test_a_vector_then_writing_is_the_same_as_both_at_once(client):
    await opened(client, "apart")
    first = await client.post("/v1/sessions/apart/steps", json={"step": 0, "observations": [RED]})
    assert first.status_code == 200, first.text
    assert first.json()["step"] == 1
    assert first.json()["prediction"]["next"] in CHARACTERS
    await opened(
        client,
        "named",
        history={"observations": [dict(zip(("red", "green", "blue"), RED, strict=True))]},
    )
    apart = await generated(client, "apart", step=1)
    assert (await generated(client, "named", step=1))["text"] == apart["text"]
    predicted = {"observations": [RED], "prompt": "ab", "temperature": 0}
    answer = await client.post(URL, json={"instances": [predicted]})
    await opened(client, "both")
    body = {"step": 0, "observations": [RED], "text": "a"}
    assert (await client.post("/v1/sessions/both/steps", json=body)).status_code == 200
    both = await generated(client, "both", step=1, text="b", temperature=0, max_tokens=100)
    assert both["text"] == answer.json()["predictions"][0]["text"]


async def test_letters_come_as_they_are_written_a_part_at_a_time(models):
    async with listening(models=models) as client:
        await opened(client, "whole")
        whole = await generated(client, "whole", observations=[GREEN], temperature=0)
        await opened(client, "parts")
        text, step = "", 0
        while len(text) < len(whole["text"]):
            asked = {"step": step, "max_tokens": 3, "temperature": 0}
            asked |= {"observations": [GREEN]} if step == 0 else {}
            heard = await client.post("/v1/sessions/parts/generate", json=asked, headers=EVENTS)
            *letters, (last, answer) = events_of(heard)
            assert last == "done"
            text += "".join(data["text"] for _, data in letters)
            step = answer["step"]
        assert text == whole["text"]
        assert answer["prediction"] == whole["prediction"]


async def test_a_vector_begins_anew_whatever_was_read(client):
    await opened(client, "fresh")
    fresh = await generated(client, "fresh", observations=[GREEN], temperature=0)
    await opened(client)
    await generated(client, observations=[RED], text="abc", max_tokens=2)
    again = await generated(client, observations=[GREEN], temperature=0)
    assert (again["text"], again["prediction"]) == (fresh["text"], fresh["prediction"])


async def test_a_retry_with_another_vector_is_another_request(client):
    await opened(client)
    first = await client.post("/v1/sessions/v/generate", json={"step": 0, "observations": [RED]})
    same = await client.post("/v1/sessions/v/generate", json={"step": 0, "observations": [RED]})
    assert same.headers["Idempotent-Replayed"] == "true"
    assert same.content == first.content
    other = await client.post("/v1/sessions/v/generate", json={"step": 0, "observations": [GREEN]})
    assert other.status_code == 409
    assert other.json()["type"] == "urn:carry:digest-mismatch"


async def test_a_replay_by_another_version_begins_at_the_last_vector(client):
    """Version 2 has the weights of version 1, so it must come to the same state."""
    names = ("kept", "left")
    for name in names:
        await opened(client, name, version="1", keep_observations=8)
        await client.post(f"/v1/sessions/{name}/steps", json={"observations": [RED], "text": "ab"})
        await client.post(f"/v1/sessions/{name}/steps", json={"observations": [GREEN]})
        await client.post(f"/v1/sessions/{name}/steps", json={"text": "ca"})
    upgrade = {"version": "2", "policy": "replay"}
    answer = await client.post("/v1/sessions/kept/upgrade", json=upgrade)
    assert answer.status_code == 200, answer.text
    kept, left = [await generated(client, name, temperature=0) for name in names]
    assert kept["text"] == left["text"]
    assert kept["prediction"] == left["prediction"]


async def test_a_replay_without_the_vector_is_refused(client):
    await opened(client, version="1", keep_observations=1)
    await client.post("/v1/sessions/v/steps", json={"observations": [RED]})
    await client.post("/v1/sessions/v/steps", json={"text": "ab"})
    upgrade = {"version": "2", "policy": "replay"}
    answer = await client.post("/v1/sessions/v/upgrade", json=upgrade)
    assert answer.status_code == 422
    assert "writes about a vector" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "writes about a vector"),
        ({"text": "ab"}, "writes about a vector"),
        ({"observations": [[1.0, 2.0]]}, "has 2 values: expected 3"),
        ({"observations": [[1.0, None, 2.0]]}, "none of them missing"),
        ({"observations": [{"red": 1.0}]}, "none of them missing"),
        ({"observations": [{"red": 1, "green": 1, "yellow": 1}]}, "names ['yellow']"),
        ({"observations": []}, "has 0 rows"),
        ({"observations": [RED, RED]}, "has 2 rows"),
        ({"observations": [RED], "text": "x"}, "characters that this model knows"),
    ],
)
async def test_what_is_no_vector_is_refused_and_leaves_the_session_as_it_was(client, asked, told):
    await opened(client)
    answer = await client.post("/v1/sessions/v/generate", json=asked)
    assert (answer.status_code, told in answer.json()["detail"]) == (422, True), answer.text
    instance = {("prompt" if name == "text" else name): value for name, value in asked.items()}
    answer = await client.post(URL, json={"instances": [instance]})
    assert (answer.status_code, told in answer.json()["detail"]) == (422, True), answer.text
    answer = await client.post("/v1/sessions/v/steps", json=asked | {"step": 0})
    assert answer.status_code == 422
    assert (await client.get("/v1/sessions/v")).json()["step"] == 0


async def test_models_that_read_no_vector_take_none(client):
    await opened(client, "verse", model="verse")
    answer = await client.post("/v1/sessions/verse/generate", json={"observations": [RED]})
    assert answer.status_code == 422
    assert 'expected no "observations"' in answer.json()["detail"]
    await opened(client, "mood", model="mood")
    answer = await client.post("/v1/sessions/mood/generate", json={"observations": [RED]})
    assert answer.status_code == 422
    assert "does not write" in answer.json()["detail"]


async def test_the_model_says_what_its_vector_is(client):
    detail = (await client.get("/v1/models/label")).json()
    assert detail["columns"] == [{"name": n, "role": "vector"} for n in ("red", "green", "blue")]
    assert detail["characters"] == CHARACTERS


async def test_the_open_protocol_reads_a_vector_a_text_or_both(client):
    infer, x = (
        "/v2/models/label/infer",
        {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": RED},
    )
    text = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["ab"]}
    both = await client.post(infer, json={"inputs": [x, text]})
    assert both.status_code == 200, both.text
    begun = {"sequence_id": 5, "sequence_start": True}
    await client.post(infer, json={"inputs": [x], "parameters": begun})
    apart = await client.post(infer, json={"inputs": [text], "parameters": {"sequence_id": 5}})
    assert apart.json()["outputs"] == both.json()["outputs"]
    none = await client.post(infer, json={"inputs": [x | {"shape": [0, 3], "data": []}]})
    assert (none.status_code, list(none.json())) == (400, ["error"])
    metadata = (await client.get("/v2/models/label")).json()
    assert [(each["name"], each["shape"]) for each in metadata["inputs"]] == [
        ("x", [-1, 3]),
        ("text", [-1, 1]),
    ]
    for inputs, told in (([text], "vector"), ([], "at least one of ['x', 'text']")):
        answer = await client.post(infer, json={"inputs": inputs})
        assert answer.status_code == 400
        assert told in answer.json()["error"]


async def test_vectors_and_texts_of_many_sessions_share_batches(client, models):
    vectors = np.random.default_rng(3).normal(size=(12, 3)).astype(np.float32).tolist()
    for place in range(12):
        await opened(client, f"s{place}", version="1")
    answers = await asyncio.gather(
        *(generated(client, f"s{place}", observations=[v]) for place, v in enumerate(vectors))
    )
    assert [each["text"] for each in answers] == [by_hand(models, v, 0) for v in vectors]
