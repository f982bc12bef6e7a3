"""Infer requests of `/v2` on the fast path: answered as on the ordinary way, and counted alike."""

import asyncio
import json
import re

import httpx
import numpy as np
import pytest

from service.api.v2.body import HEADER
from tests.api.support import NO_TLS, listening
from tests.api.test_open_inference import START_S, models  # noqa: F401 -- a fixture
from tests.api.test_protocol import short_way_taken
from tests.fakes.foreign import leaky

X = {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
LEAKY = {"name": "x", "shape": [1, 3], "datatype": "FP16", "data": [0.5, -1, 2]}
TIME = {"name": "time", "shape": [1, 1], "datatype": "INT64", "data": [START_S]}
HUGE = LEAKY | {"data": [6e4, 1, 1]}
GAIN = {"name": "gain", "shape": [1], "datatype": "FP16", "data": [2]}
FEW = {"name": "x", "shape": [1, 3, 2], "datatype": "FP32", "data": [[[1, 2], [3, 4], [5, 6]]]}
FEW_TIMES = TIME | {"shape": [1, 3], "data": [START_S + 86_400 * day for day in range(3)]}
TEXT = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a film "]}
OWN_HEADERS = {"content-security-policy", "referrer-policy", "x-frame-options"}
"""Pages have them, which the ordinary way adds to all answers."""


def sequence(number, **parameters):
    named = {"sequence_id": number}
    return named | {f"sequence_{name}": value for name, value in parameters.items()}


def infer(*inputs, path="load", **members):
    return path, json.dumps({"inputs": inputs} | members).encode(), {}


def binary(*tensors, path="load", **members):
    inputs, tail = [], b""
    for tensor, values in tensors:
        tensor = {key: value for key, value in tensor.items() if key != "data"}
        inputs.append(tensor | {"parameters": {"binary_data_size": values.nbytes}})
        tail += values.tobytes()
    head = json.dumps({"inputs": inputs} | members).encode()
    kind = {"Content-Type": "application/octet-stream", HEADER: str(len(head))}
    return path, head + tail, kind


SCRIPTS = {
    "a sequence": [
        infer(X, TIME, parameters=sequence(5, start=True), id="first"),
        infer(X, parameters=sequence(5)),
        infer(FEW, parameters=sequence(5) | {"emit": "all"}),
        infer(X, parameters=sequence(5, end=True)),
        infer(X, parameters=sequence(5), id="late"),
    ],
    "numbered steps are applied once": [
        infer(X, TIME, parameters=sequence("é", start=True, step=0)),
        infer(X, parameters=sequence("é", step=1)),
        infer(X, parameters=sequence("é", step=1)),
        infer(FEW, parameters=sequence("é", step=1), id="other"),
        infer(X, parameters=sequence("é", step=9)),
        infer(X, TIME, parameters=sequence("é", start=True, step=3)),
    ],
    "tensors of a graph that was imported": [
        infer(LEAKY, path="leaky", parameters=sequence(7, start=True)),
        infer(LEAKY, path="leaky", parameters=sequence(7, step=1)),
        infer(LEAKY, path="leaky", parameters=sequence(7, step=1)),
        infer(LEAKY, path="leaky", parameters=sequence(7) | {"emit": "last"}),
        infer(LEAKY | {"data": [1, 2]}, path="leaky", parameters=sequence(7), id="short"),
        infer(LEAKY | {"data": [1, 2, 1e9]}, path="leaky", parameters=sequence(7)),
        infer(LEAKY, {"name": "gain", "shape": [1], "datatype": "FP16", "data": [2]}, path="leaky",
              parameters=sequence(7)),
    ],
    "binary": [
        binary((X, np.float32([1, 2])), (TIME, np.int64([START_S])),
               parameters=sequence(5, start=True)),
        binary((X, np.float32([3, 4])), parameters=sequence(5) | {"binary_data_output": True}),
        binary((X, np.float32([3, 4])), parameters=sequence(5), outputs=[{"name": "mean"}]),
        binary((X, np.float32([3])), parameters=sequence(5), id="cut"),
        ("load", b'{"inputs": []}', {HEADER: "99"}),
        ("load", b'{"inputs": []}', {HEADER: "-1"}),
    ],
    "without a sequence": [
        infer(X, TIME),
        infer(X | {"shape": [2, 1, 2], "data": [1.0, 2.0, 3.0, 4.0]},
              TIME | {"shape": [2, 1], "data": [START_S, START_S]}, id="two"),
        infer(TEXT, path="mood"),
        infer(FEW, path="phase"),
        infer(X, TIME, path="load/versions/2"),
        infer(X, TIME, path="load/versions/9"),
        infer(X, path="nothing", id="lost"),
    ],
    "refused by the engine": [
        infer(X, TIME, parameters=sequence(5, start=True)),
        infer(X, parameters=sequence(5, step=9), id="early"),
        infer(LEAKY, path="leaky"),
        infer(HUGE, GAIN, path="leaky", id="infinite"),
        infer(LEAKY, path="leaky", parameters=sequence(7, start=True)),
        infer(HUGE, GAIN, path="leaky", parameters=sequence(7), id="infinite, too"),
    ],
    "versions": [
        infer(X, TIME, path="load/versions/1", parameters=sequence(5, start=True)),
        infer(X, path="load/versions/1", parameters=sequence(5)),
        infer(X, path="load/versions/2", parameters=sequence(5)),
        infer(X, parameters=sequence(5)),
    ],
    "compressed answers": [
        (*infer(FEW, FEW_TIMES, parameters=sequence(5, start=True) | {"emit": "all"})[:2],
         {"Accept-Encoding": "gzip"}),
        (*infer(FEW, parameters=sequence(5) | {"emit": "all"})[:2],
         {"Accept-Encoding": "deflate, gzip;q=0.5"}),
    ],
    "mistakes": [
        ("load", b"{", {}),
        ("load", b"[]", {}),
        infer(X, parameters=sequence(-1)),
        infer(X, sequence_id=5),
        infer(X, TIME, parameters=sequence(5, start=True), id=7),
        infer(X | {"datatype": "INT8"}, parameters=sequence(5, start=True)),
        infer(X, X, parameters=sequence(5, start=True), id="twice"),
        infer(X | {"data": [1e39, 2.0]}, parameters=sequence(5, start=True)),
        infer(X | {"data": [True, 2.0]}, parameters=sequence(5, start=True)),
        infer(X, parameters=sequence(5, start=True), outputs=[{"name": "no"}]),
    ],
}  # fmt: skip

STATUSES = {
    "a sequence": [200, 200, 200, 200, 400],
    "numbered steps are applied once": [200, 200, 200, 409, 409, 400],
    "tensors of a graph that was imported": [200, 200, 200, 200, 400, 400, 200],
    "binary": [200, 200, 200, 400, 400, 400],
    "without a sequence": [200, 200, 200, 200, 200, 404, 404],
    "refused by the engine": [200, 409, 200, 400, 200, 400],
    "versions": [200, 200, 400, 200],
    "compressed answers": [200, 200],
    "mistakes": [400, 400, 400, 400, 400, 400, 400, 400, 400, 400],
}


def alike(response):
    """All of a response that does not tell the requests apart."""
    headers = {
        name: value
        for name, value in response.headers.items()
        if name not in OWN_HEADERS | {"date", "x-request-id"}
    }
    return response.status_code, headers, response.content


async def answers(models, script, query):  # noqa: F811
    """What a service of its own answers, and what it has counted."""
    async with (
        listening(models=models) as client,
        httpx.AsyncClient(base_url=client.base_url, verify=NO_TLS, timeout=20) as sender,
    ):
        del sender.headers["accept-encoding"]
        found = []
        for path, data, headers in script:
            kind = {"Content-Type": "application/json"} | headers
            url = f"/v2/models/{path}/infer{query}"
            found.append(alike(await sender.post(url, content=data, headers=kind)))
        text = (await client.get("/metrics")).text
    counted = re.findall(
        r"^(carry_(?:inference_(?:requests|rows)|http_requests|steps|refus\w+)_total\S* .*)$",
        text, re.MULTILINE,
    )  # fmt: skip
    return found, [line for line in counted if "/metrics" not in line]


@pytest.mark.parametrize("name", SCRIPTS)
async def test_both_ways_answer_and_count_alike(models, name, monkeypatch):  # noqa: F811
    script = SCRIPTS[name]
    ordinary = await answers(models, script, "?ordinary")
    assert [status for status, _, _ in ordinary[0]] == STATUSES[name]
    taken = short_way_taken(monkeypatch)
    fast = await answers(models, script, "")
    assert fast == ordinary
    assert len(taken) >= len(script) - 1  # one script has a header that is unusual


async def test_what_finds_the_queue_full_is_refused_before_it_is_parsed(models, monkeypatch):  # noqa: F811
    parsed = []
    monkeypatch.setattr("service.api.v2.infer_call.parse", lambda *body: parsed.append(body))
    found = []
    for query in ("?ordinary", ""):
        async with listening(models=models) as client:
            engine = client.app.context.engine
            backlog = engine.workers.of(engine.registry.get("phase"))._backlog
            backlog._bounds = backlog._bounds._replace(max_jobs=0)
            backlog.num_steps = 1  # an idle model lets anything in
            path, data, _ = infer(X, path="phase", parameters=sequence(5), id="late")
            answer = await client.post(f"/v2/models/{path}/infer{query}", content=data)
            backlog.num_steps = 0
            failures = re.findall(
                r"^carry_inference_requests_total.*",
                (await client.get("/metrics")).text,
                re.MULTILINE,
            )
            found.append((*alike(answer), failures))
    assert found[0] == found[1]
    assert (found[1][0], json.loads(found[1][2])["id"], parsed) == (429, "late", [])


async def test_a_defect_of_ours_is_answered_and_counted_alike(models, monkeypatch):  # noqa: F811
    def fail(*_):
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr("service.api.v2.infer_call.observations_of", fail)
    script = [infer(X, path="phase", id="unlucky"), infer(X, parameters=sequence(5, start=True))]
    ordinary, fast = [await answers(models, script, query) for query in ("?ordinary", "")]
    assert fast == ordinary
    assert [status for status, _, _ in fast[0]] == [500, 500]
    assert json.loads(fast[0][0][2])["id"] == "unlucky"


async def test_steps_of_many_sequences_at_once_are_those_of_each_alone(models):  # noqa: F811
    xs = np.random.default_rng(3).uniform(-1, 1, (20, 4, 3)).astype(np.float16)

    async def step(client, number, at):
        values = {"data": xs[number, at].tolist()}
        parameters = sequence(number + 1, start=at == 0, step=at)
        path, data, _ = infer(LEAKY | values, path="leaky", parameters=parameters)
        answer = await client.post(f"/v2/models/{path}/infer", content=data)
        assert answer.status_code == 200, answer.text
        return answer.json()["outputs"][0]["data"]

    async with listening(models=models) as client:
        for at in range(4):
            found = await asyncio.gather(*(step(client, number, at) for number in range(20)))
            again = await asyncio.gather(*(step(client, number, at) for number in range(20)))
            assert again == found
            for number in range(20):
                expected = leaky(xs[number, : at + 1])[-1]
                np.testing.assert_array_equal(np.float16(found[number]), expected.reshape(-1))
