"""The AsyncAPI document is one, and what is really sent and heard fits it."""

import json
import warnings

import jsonschema
import pytest

from service.api.websocket.asyncapi import document
from service.api.websocket.close_codes import CloseCode
from tests.api.keys import keys_file
from tests.api.support import listening, serving
from tests.api.test_generate import EVENTS, events_of
from tests.api.test_stream import stream_of

with warnings.catch_warnings():  # of pydantic's, on a field that is called "schema"
    warnings.simplefilter("ignore")
    from asyncapi3 import AsyncAPI3

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22", "replay": 8}
DOCUMENT = document("1.2.3", "localhost:8000")


def refs_of(value):
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        for each in value.values():
            yield from refs_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from refs_of(each)


def at(pointer):
    found = DOCUMENT
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/")]
    return found


def without_nulls(value):
    """A schema less `"default": null` and so on, which FastAPI leaves out."""
    if not isinstance(value, dict):
        return value
    return {key: without_nulls(each) for key, each in value.items() if each is not None}


def require_fits(value, message):
    schema = DOCUMENT | {"$ref": f"#/components/messages/{message}/payload"}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_it_is_an_asyncapi_document_whose_references_lead_somewhere():
    parsed = AsyncAPI3.model_validate(DOCUMENT)
    assert set(parsed.channels.root) == set(DOCUMENT["channels"])
    refs = set(refs_of(DOCUMENT))
    assert len(refs) > 40
    for ref in refs:
        assert at(ref)


def test_what_is_no_such_document_is_found():
    wrong = DOCUMENT | {"operations": {"x": {"action": "publish"}}}
    with pytest.raises(ValueError, match="action"):
        AsyncAPI3.model_validate(wrong)


def test_every_close_code_and_every_message_is_in_it():
    for name in ("sessionStream", "stream"):
        codes = DOCUMENT["channels"][name]["x-close-codes"]
        assert set(codes) == {str(int(code)) for code in CloseCode}
    used = {ref.split("/")[-1] for ref in refs_of(DOCUMENT["channels"]) if "/messages/" in ref}
    assert used == set(DOCUMENT["components"]["messages"])
    operated = {
        ref.split("/")[-1]
        for operation in DOCUMENT["operations"].values()
        for ref in refs_of(operation)
        if "/messages/" in ref
    }
    assert operated == used


async def test_it_is_served_without_a_key_and_shares_its_schemas_with_openapi(tmp_path):
    path, _ = keys_file(tmp_path, ada="user")
    async with serving(api_keys_file=path) as client:
        served = (await client.get("/asyncapi.json")).json()
        openapi = (await client.get("/openapi.json")).json()
    assert served["servers"]["webSocket"]["host"] == "test"
    ours, theirs = served["components"]["schemas"], openapi["components"]["schemas"]
    shared = (set(ours) & set(theirs)) - {"Problem"}
    assert {"StepAnswer", "GenerateAnswer", "Forecast", "Classification"} <= shared
    for name in shared:
        assert without_nulls(ours[name]) == without_nulls(theirs[name]), name


def test_its_examples_fit_its_schemas():
    examples = 0
    for name, message in DOCUMENT["components"]["messages"].items():
        for example in message.get("examples", ()):
            require_fits(example["payload"], name)
            examples += 1
    assert examples == 4


async def test_what_streams_send_fits():
    async with listening() as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        async with stream_of(client) as socket:
            require_fits(json.loads(await socket.recv()), "hello")
            body = {"step": 0, "observations": [[1, None], {"load": 2}], "emit": "all", "id": 7}
            require_fits(body, "step")
            for _ in range(2):
                await socket.send(json.dumps(body))
                require_fits(json.loads(await socket.recv()), "answer")
            for wrong in ({"step": 9, "observations": [[1, 2]]}, {"rows": 1}):
                await socket.send(json.dumps(wrong))
                require_fits(json.loads(await socket.recv()), "problem")
            with pytest.raises(jsonschema.ValidationError):
                require_fits({"rows": 1}, "step")
        async with stream_of(client, "/v1/stream") as socket:
            body = {"session": "s", "observations": [[1, 2]]}
            require_fits(body, "stepOfAny")
            await socket.send(json.dumps(body))
            require_fits(json.loads(await socket.recv()), "answer")


async def test_what_events_tell_fits():
    async with listening() as client:
        for fields in (OPEN, {"model": "verse", "session": "v"}):
            (await client.post("/v1/sessions", json=fields)).raise_for_status()
        for row in ([1, 2], [2, 3]):
            await client.post("/v1/sessions/s/steps", json={"observations": [row]})
        async with client.stream(
            "GET", "/v1/sessions/s/events", headers={"Last-Event-ID": "0"}
        ) as response:
            await client.delete("/v1/sessions/s")
            await response.aread()
        told = events_of(response)
        assert {name for name, _ in told} >= {"open", "step", "end"}
        asked = {"text": "ab", "max_tokens": 4, "seed": 5}
        written = await client.post("/v1/sessions/v/generate", json=asked, headers=EVENTS)
        instances = {"instances": [{"prompt": "ab", "max_tokens": 4, "seed": 5}]}
        alone = await client.post("/v1/models/verse/predict", json=instances, headers=EVENTS)
        for name, data in told + events_of(written) + events_of(alone):
            require_fits(data, f"event{name.capitalize()}")
