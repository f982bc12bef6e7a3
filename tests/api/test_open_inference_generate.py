"""Triton's `generate` and `generate_stream` for models that write."""

import asyncio
import json

import pytest

from service.engine.session.requests import DeleteRequest
from service.stores.record.record import Key
from tests.api.support import listening, serving
from tests.fakes.bundles import CHARACTERS, write_captioner

URL = "/v2/models/verse/generate"
HOW = {"max_tokens": 12, "temperature": 1.0, "seed": 5}


def events_of(answer):
    """Data of events, none of which has a name."""
    blocks = [block for block in answer.text.split("\n\n") if block.strip()]
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


async def plainly(client, text):
    asked = {"instances": [{"prompt": text} | HOW]}
    answer = await client.post("/v1/models/verse/predict", json=asked)
    return answer.json()["predictions"][0]["text"]


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_a_text_is_written_on_as_elsewhere_wherever_parameters_stand(client, version):
    expected = await plainly(client, "ab")
    url = f"/v2/models/verse{version}/generate"
    for body in ({"parameters": HOW}, HOW, {"max_tokens": 12, "parameters": {"seed": 5}}):
        answer = await client.post(url, json={"id": "7", "text_input": "ab"} | body)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "model_name": "verse", "model_version": "1", "id": "7", "text_output": expected,
        }  # fmt: skip
        assert set(expected) <= set(CHARACTERS)


async def test_a_stream_holds_the_same_a_piece_at_a_time(client):
    expected = await plainly(client, "ab")
    body = {"id": "7", "text_input": "ab", "parameters": HOW | {"stream": True}}
    answer = await client.post(f"{URL}_stream", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer)
    assert [each["text_output"] for each in events] == list(expected)
    assert {(each["id"], each["model_name"]) for each in events} == {("7", "verse")}


async def test_a_sequence_is_written_on_with_its_state(client):
    told = {"sequence_id": 4, "sequence_start": True}
    whole = (await client.post(URL, json={"text_input": "ab"} | HOW)).json()["text_output"]
    first = await client.post(URL, json={"text_input": "ab", "parameters": HOW | told})
    assert first.json()["text_output"] == whole
    assert first.json()["parameters"]["sequence_step"] == 1
    again = HOW | {"sequence_id": 4, "sequence_step": 1}
    heard = events_of(await client.post(f"{URL}_stream", json={"parameters": again}))
    *pieces, last = heard
    assert last["parameters"]["sequence_step"] == 2
    replayed = await client.post(URL, json={"parameters": again})
    assert replayed.json()["text_output"] == "".join(each["text_output"] for each in pieces)
    repeated = events_of(await client.post(f"{URL}_stream", json={"parameters": again}))
    assert "".join(each["text_output"] for each in repeated) == replayed.json()["text_output"]


async def test_sequences_that_start_while_another_does_are_each_answered(client):
    told = {"sequence_id": 4, "sequence_start": True}
    texts = ["ab", "c", "b a", "é"]
    answers = await asyncio.gather(
        *(client.post(URL, json={"text_input": text, "parameters": HOW | told}) for text in texts)
    )
    alone = [await client.post(URL, json={"text_input": text} | HOW) for text in texts]
    assert [each.json()["text_output"] for each in answers] == [
        each.json()["text_output"] for each in alone
    ]


async def test_a_model_about_vectors_takes_one_by_the_name_of_its_input(tmp_path):
    write_captioner(tmp_path)
    async with serving(models=tmp_path) as client:
        [model] = client.app.context.engine.registry.all()
        url = f"/v2/models/{model.name}/generate"
        answer = await client.post(url, json=HOW | {model.x.name: [0.1, 0.5, 0.9]})
        told = {"instances": [{"observations": [[0.1, 0.5, 0.9]]} | HOW]}
        plain = await client.post(f"/v1/models/{model.name}/predict", json=told)
        assert answer.json()["text_output"] == plain.json()["predictions"][0]["text"]
        wrong = await client.post(url, json=HOW | {model.x.name: [0.1]})
        assert "has 1 values: expected 3" in wrong.json()["error"]


@pytest.mark.parametrize("end", ["", "_stream"])
@pytest.mark.parametrize(
    ("model", "body", "status", "told"),
    [
        ("mood", {"text_input": "good"}, 400, "does not write"),
        ("nothing", {"text_input": "good"}, 404, "no model"),
        ("verse", {"text_input": "xyz"}, 400, "characters that this model knows"),
        ("verse", {"text_input": 3}, 400, "text_input is '3': expected a string"),
        ("verse", {"max_tokens": 0}, 400, "parameter max_tokens is '0'"),
        ("verse", {"parameters": {"temperature": "hot"}}, 400, "parameter temperature is 'hot'"),
        ("verse", {"parameters": 3}, 400, '"parameters" of the request'),
        ("verse", {"seed": 1, "parameters": {"seed": 2}}, 400, "expected once"),
        ("verse", {"top_p": 0.5}, 400, "unexpected ['top_p']"),
        ("verse", {"max_tokens": 10**6}, 400, "expected at most"),
        ("verse", {"parameters": {"sequence_id": 5}}, 400, "must specify the START flag"),
        ("verse", {"stream": 3}, 400, "stream is '3'"),
    ],
)
async def test_what_does_not_fit_is_refused_with_the_id(client, end, model, body, status, told):
    url = f"/v2/models/{model}/generate{end}"
    answer = await client.post(url, json={"id": "7"} | body)
    assert answer.status_code == status, answer.text
    assert answer.json()["id"] == "7"
    assert told in answer.json()["error"]


async def test_the_flag_of_a_stream_belongs_to_its_path(client):
    answer = await client.post(URL, json={"text_input": "a", "stream": True})
    assert "generate_stream" in answer.json()["error"]
    answer = await client.post(f"{URL}_stream", json={"text_input": "a", "stream": False})
    assert answer.status_code == 400


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"3"])
async def test_a_body_that_is_not_an_object_is_400(client, content):
    answer = await client.post(URL, content=content)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


async def test_an_error_behind_the_first_character_is_the_last_event():
    async with serving() as client:
        await client.post(
            URL, json={"text_input": "a", "parameters": {"sequence_id": 4, "sequence_start": True}}
        )
        store = client.app.context.engine.store

        async def lose(writes):
            raise OSError("gone")

        store.commit = lose
        body = {"id": "7", "parameters": HOW | {"sequence_id": 4}}
        last = events_of(await client.post(f"{URL}_stream", json=body))[-1]
        assert last["id"] == "7"
        assert "repeat it with its sequence_step" in last["error"]


async def test_a_stream_whose_sequence_another_replica_stepped_ends_with_an_error(tmp_path):
    """The characters that were heard are void, and the protocol cannot say so."""
    store = f"sqlite:///{tmp_path / 'carry.db'}"
    async with listening(store=store) as here, serving(store=store) as there:
        start = {"text_input": "a", "parameters": HOW | {"sequence_id": 4, "sequence_start": True}}
        await here.post(URL, json=start)
        engine = here.app.context.engine
        commit = engine.store.commit

        async def be_late(writes):
            engine.store.commit = commit
            await there.post(URL, json={"parameters": HOW | {"sequence_id": 4}})
            return await commit(writes)

        engine.store.commit = be_late
        body = {"parameters": HOW | {"sequence_id": 4}}
        last = events_of(await here.post(f"{URL}_stream", json=body))[-1]
        assert "nothing was applied" in last["error"]
        found = await there.app.context.engine.store.load(Key("default", "v2:verse:i4"))
        assert found.step == 2  # the start, and what the other replica wrote
        await there.app.context.engine.submit(found.key, DeleteRequest())


async def test_the_server_says_that_it_can(client):
    assert "generate" in (await client.get("/v2")).json()["extensions"]
