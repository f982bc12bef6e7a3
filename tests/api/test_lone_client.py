"""A client that has the service for itself is never told that the queue is full, whatever it asks
for within the documented limits, and however small the queue is."""

import numpy as np
import pyarrow as pa
import pytest

from service import app
from service.api.sessions.bulk import ARROW
from service.engine.limits import EngineLimits
from tests.api.support import serving
from tests.api.test_bulk import stream_of

OPEN = {"model": "load", "version": "1", "start": "2016-08-22"}
LONG_TEXT = "a waste of a wonderful film " * 60


@pytest.fixture(params=[{"max_queue_s": 1e-9}, {"max_waiting_jobs": 1}, {"max_waiting_steps": 1}])
async def client(request, monkeypatch):
    """By what it has learnt of the graph, next to nothing may wait for it."""
    monkeypatch.setattr(app, "EngineLimits", lambda **given: EngineLimits(**given | request.param))
    async with serving() as client:
        rows = np.random.default_rng(0).normal(size=(500, 2)).tolist()
        history = {"start": "2016-08-22", "observations": rows}
        for model, instance in (("load", history), ("mood", {"text": LONG_TEXT})):
            body = {"instances": [instance]}
            (await client.post(f"/v1/models/{model}/predict", json=body)).raise_for_status()
        yield client


@pytest.mark.parametrize("num_instances", [64, 1024])
async def test_a_prediction_of_many_long_instances_is_answered(client, num_instances):
    body = {"instances": [{"text": LONG_TEXT if n < 64 else "a"} for n in range(num_instances)]}
    for _ in range(2):
        answer = await client.post("/v1/models/mood/predict", json=body)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["predictions"]) == num_instances


async def test_a_bulk_of_many_steps_is_answered(client):
    names = [f"s{n}" for n in range(30)]
    for name in names:
        body = OPEN | {"session": name}
        (await client.post("/v1/sessions", json=body)).raise_for_status()
    for _ in range(2):
        steps = [{"session": name, "observations": [[1, 2]] * 40} for name in names * 2]
        answer = await client.post("/v1/steps", json={"steps": steps})
        assert [each["status"] for each in answer.json()["results"]] == [200] * 60


async def test_an_arrow_stream_of_more_rows_than_are_begun_at_once_is_answered(client):
    names = [f"s{n}" for n in range(130)]
    for name in names:
        body = OPEN | {"session": name}
        (await client.post("/v1/sessions", json=body)).raise_for_status()
    for _ in range(2):
        data = stream_of(pa.table({"session": names, "observations": [[1.0, 2.0]] * 130}))
        answer = await client.post("/v1/steps", content=data, headers={"Content-Type": ARROW})
        told = pa.ipc.open_stream(answer.content).read_all()
        assert told["status"].to_pylist() == [200] * 130


async def test_an_inference_of_v2_of_many_rows_is_answered(client):
    shape = [100, 20, 2]
    data = np.random.default_rng(0).normal(size=shape).reshape(-1).tolist()
    times = (1_471_824_000 + 86_400 * np.arange(20)).tolist() * 100
    inputs = [
        {"name": "x", "shape": shape, "datatype": "FP32", "data": data},
        {"name": "time", "shape": shape[:2], "datatype": "INT64", "data": times},
    ]
    for _ in range(2):
        answer = await client.post("/v2/models/load/infer", json={"inputs": inputs})
        assert answer.status_code == 200, answer.text
