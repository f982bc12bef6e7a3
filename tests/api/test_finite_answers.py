"""What is not a finite number is neither answered nor kept, whichever way it was asked for."""

import json
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from websockets.asyncio.client import connect

from service.api.sessions.bulk import ARROW
from tests.api.support import listening
from tests.api.test_bulk import stream_of
from tests.fakes.bundles import (
    CHARACTERS,
    small_tokenizer,
    write_captioner,
    write_classifier,
    write_forecaster,
    write_generator,
    write_tagger,
)
from tests.fakes.foreign import leaky_graph
from tests.fakes.overflow import HUGE, make_overflow
from training.foreign.choices import Choices
from training.foreign.command import write_bundle_of


class Kind(NamedTuple):
    """A model, what it reads, and what it must not come to."""

    model: str
    good: dict[str, Any]
    bad: dict[str, Any]
    opening: dict[str, Any] = {}  # noqa: RUF012 -- never changed


KINDS = [
    Kind(
        "load",
        {"observations": [[1.0, 2.0]]},
        {"observations": [[HUGE, 2.0]]},
        {"start": "2016-08-22"},
    ),
    Kind("phase", {"observations": [[1.0, 2.0]]}, {"observations": [[1.0, -HUGE]]}),
    Kind("mood", {"text": "a film "}, {"text": "time "}),
    Kind("verse", {"text": "ab"}, {"text": "é"}),
    Kind("label", {"observations": [[1.0, 2.0, 3.0]]}, {"observations": [[1.0, HUGE, 3.0]]}),
    # Of float16: the first one comes to 40,000, the second to more than there is.
    Kind("leaky", {"tensors": {"x": [4e4, 1, 1]}}, {"tensors": {"x": [6e4, 1, 1]}}),
]
of_each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.model)


@pytest.fixture(scope="module", params=["outputs", "state"])
def models(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    token = small_tokenizer().encode("▁time").ids[-1]
    for write, name, bad_token in (
        (write_forecaster, "load", None),
        (write_tagger, "phase", None),
        (write_classifier, "mood", token),
        (write_generator, "verse", CHARACTERS.index("é")),
        (write_captioner, "label", None),
    ):
        write(folder)
        make_overflow(folder / name / "1", request.param, bad_token)
    (folder / "g.onnx").write_bytes(leaky_graph())
    choices = Choices(constants={"gain": 1})
    write_bundle_of(
        folder / "g.onnx", choices, None, "leaky", "1", "", "MIT", 1e-3, "import", folder
    )  # fmt: skip
    (folder / "g.onnx").unlink()
    return folder


@pytest.fixture
async def client(models):
    async with listening(models=models) as client:
        yield client


async def opened(client, kind, *names):
    """Sessions that have read something good."""
    for name in names:
        body = {"model": kind.model, "session": name} | kind.opening
        (await client.post("/v1/sessions", json=body)).raise_for_status()
        await stepped(client, kind, name)


async def stepped(client, kind, name):
    answer = await client.post(f"/v1/sessions/{name}/steps", json=next_of(kind))
    assert answer.status_code == 200, answer.text
    return answer.json()["prediction"]


def next_of(kind):
    return {"tensors": {"x": [1, 2, 3]}} if kind.model == "leaky" else kind.good


def both_of(kind):
    """What is good and, behind it, what is not, where that is one request."""
    if kind.model in ("load", "phase"):
        return {"observations": kind.good["observations"] + kind.bad["observations"]}
    if kind.model == "leaky":
        return {"tensors": {"x": [kind.good["tensors"]["x"], kind.bad["tensors"]["x"]]}}
    return kind.bad


def assert_refused(problem):
    assert problem["type"] == "urn:carry:not-finite"
    assert problem["status"] == 422
    assert "finite" in problem["detail"]


async def num_refused(client):
    text = (await client.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("carry_rows_not_finite_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@asynccontextmanager
async def refusing(client, kind, name, control, num_rows=1):
    """What is done inside is counted, and leaves the session as it was."""
    if kind.model == "leaky":
        for each in (name, control):
            body = {"tensors": kind.good["tensors"]}
            (await client.post(f"/v1/sessions/{each}/steps", json=body)).raise_for_status()
    before = (await client.get(f"/v1/sessions/{name}")).json()
    counted = await num_refused(client)
    yield
    assert await num_refused(client) == counted + num_rows
    after = (await client.get(f"/v1/sessions/{name}")).json()
    for each in (before, after):
        each.pop("age_s")
    assert after == before
    assert await stepped(client, kind, name) == await stepped(client, kind, control)


@of_each_kind
async def test_a_step_by_http_is_refused_and_the_next_one_answered_as_if_it_had_not_been(
    client, kind
):
    await opened(client, kind, "s", "control")
    for path in ("steps", "preview", "steps?x=1"):
        async with refusing(client, kind, "s", "control"):
            answer = await client.post(f"/v1/sessions/s/{path}", json=kind.bad)
            assert_refused(answer.json())
            assert answer.status_code == 422


@of_each_kind
async def test_a_step_by_websocket_is_refused_and_the_socket_goes_on(client, kind):
    await opened(client, kind, "s", "control")
    async with (
        connect(f"ws://127.0.0.1:{client.port}/v1/sessions/s/stream") as one,
        connect(f"ws://127.0.0.1:{client.port}/v1/stream") as many,
    ):
        await one.recv()
        for socket, more in ((one, {}), (many, {"session": "s"})):
            async with refusing(client, kind, "s", "control"):
                await socket.send(json.dumps(kind.bad | more))
                told = json.loads(await socket.recv())
                assert_refused(told)


@of_each_kind
async def test_in_a_bulk_one_step_is_refused_and_the_others_go_on(client, kind):
    await opened(client, kind, "s", "control", "other")
    async with refusing(client, kind, "s", "control"):
        steps = [
            {"session": "other"} | next_of(kind),
            {"session": "s"} | kind.bad,
            {"session": "s"} | next_of(kind),
            {"session": "other"} | next_of(kind),
        ]
        answer = await client.post("/v1/steps", json={"steps": steps})
        results = answer.json()["results"]
        assert [each["status"] for each in results] == [200, 422, 409, 200]
        assert_refused(results[1]["error"])


@of_each_kind
async def test_a_history_is_refused_and_nothing_is_opened(client, kind):
    body = {"model": kind.model, "session": "s", "history": both_of(kind)} | kind.opening
    answer = await client.post("/v1/sessions", json=body)
    assert_refused(answer.json())
    assert (await client.get("/v1/sessions/s")).status_code == 404
    assert await num_refused(client) == 1


@of_each_kind
async def test_a_prediction_is_refused_by_the_index_of_its_instance(client, kind):
    url = f"/v1/models/{kind.model}/predict"
    name = {"text": "prompt"} if kind.model in ("verse", "label") else {}
    good, bad = (
        {name.get(key, key): value for key, value in each.items()} | kind.opening
        for each in (kind.good, kind.bad)
    )
    if kind.model == "leaky":
        bad = both_of(kind)
    if kind.model in ("verse", "label"):
        good, bad = good | {"max_tokens": 3}, bad | {"max_tokens": 3}
    answer = await client.post(url, json={"instances": [good, bad, good]})
    assert_refused(answer.json())
    assert answer.json()["detail"].startswith("instances[1]: ")
    answer = await client.post(url, json={"instances": [good, good]})
    assert answer.status_code == 200
    assert "null" not in json.dumps(answer.json()["predictions"]).replace('"start": null', "")


@pytest.mark.parametrize("kind", KINDS[:1], ids=["load"])
async def test_in_an_arrow_stream_one_row_is_refused_and_the_others_go_on(client, kind):
    names = [f"n{place}" for place in range(20)]
    await opened(client, kind, "s", "control", *names)
    rows = [[HUGE if name == "s" else 1.0, 2.0] for name in [*names, "s"]]
    async with refusing(client, kind, "s", "control"):
        data = stream_of(pa.table({"session": [*names, "s"], "observations": rows}))
        answer = await client.post("/v1/steps", content=data, headers={"Content-Type": ARROW})
        told = pa.ipc.open_stream(answer.content).read_all()
        assert told["status"].to_pylist() == [200] * 20 + [422]
        assert told["error"].to_pylist()[-1].startswith("not-finite: ")
        assert told["mean"].null_count == 1
        assert np.isfinite(np.array(told["mean"].to_pylist()[:-1])).all()


def v2_inputs(kind, observed):
    if kind.model == "leaky":
        data = [observed["tensors"]["x"]]
        return [{"name": "x", "shape": [1, 3], "datatype": "FP16", "data": data}]
    if "text" in observed:
        return [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [observed["text"]]}]
    row = observed["observations"][0]
    shape = [1, len(row)] if kind.model == "label" else [1, 1, len(row)]
    inputs = [{"name": "x", "shape": shape, "datatype": "FP32", "data": row}]
    if kind.model == "load":
        time = {"name": "time", "shape": [1, 1], "datatype": "INT64", "data": [1_471_824_000]}
        inputs.append(time)
    return inputs


async def infer(client, kind, observed, is_binary=False, **parameters):
    inputs = v2_inputs(kind, observed)
    if kind.model == "load" and not parameters.get(
        "sequence_start", "sequence_id" not in parameters
    ):
        inputs = inputs[:1]
    body = {"inputs": inputs, "parameters": parameters | {"binary_data_output": is_binary}}
    return await client.post(f"/v2/models/{kind.model}/infer", json=body)


@of_each_kind
async def test_a_sequence_of_v2_is_as_if_what_was_refused_had_not_been(client, kind):
    for is_binary in (False, True):
        control, spoilt = 2 + 4 * is_binary, 3 + 4 * is_binary
        for id_ in (control, spoilt):
            started = await infer(client, kind, kind.good, sequence_id=id_, sequence_start=True)
            assert started.status_code == 200, started.text
        refused = await infer(client, kind, kind.bad, is_binary, sequence_id=spoilt)
        assert refused.status_code == 400
        assert "finite" in refused.json()["error"]
        outputs = []
        for id_ in (control, spoilt):
            good = await infer(client, kind, next_of(kind), sequence_id=id_)
            assert good.status_code == 200, good.text
            assert "null" not in good.text
            outputs.append(good.json()["outputs"])
        assert outputs[0] == outputs[1]
    assert await num_refused(client) == 2


@pytest.mark.parametrize("kind", KINDS[:-1], ids=[kind.model for kind in KINDS[:-1]])
async def test_an_inference_of_v2_without_a_sequence_is_refused(client, kind):
    refused = await infer(client, kind, kind.bad)
    assert refused.status_code == 400
    assert "finite" in refused.json()["error"]


@pytest.mark.parametrize("kind", KINDS[3:5], ids=["verse", "label"])
async def test_writing_is_refused_too_whether_it_is_streamed_or_not(client, kind):
    await opened(client, kind, "s", "control")
    url, asked = "/v1/sessions/s/generate", {"max_tokens": 4, "temperature": 0}
    bad = kind.bad
    async with refusing(client, kind, "s", "control"):
        assert_refused((await client.post(url, json=bad | asked)).json())
    async with refusing(client, kind, "s", "control"):
        accept = {"Accept": "text/event-stream"}
        answer = await client.post(url, json=bad | asked, headers=accept)
        assert "urn:carry:not-finite" in answer.text


async def test_a_series_of_the_time_series_protocol_is_refused(client):
    body = {
        "model": "load",
        "inputs": [
            {
                "name": "a",
                "type": "univariate_time_series",
                "series": [1.0, HUGE],
                "frequency": "D",
                "start_timestamp": "2016-08-22",
            }
        ],
        "options": {"horizon": 3},
    }
    answer = await client.post("/v1/timeseries/forecast", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["type"] == "not-finite"
