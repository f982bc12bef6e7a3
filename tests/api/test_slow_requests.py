"""A request that takes longer than it may is logged, with where its time went."""

import json

import pytest
import structlog
from websockets.asyncio.client import connect

from tests.api.support import listening, until
from tests.api.test_protocol import OPEN

ID = {"X-Request-ID": "slow-1"}
STEP = {"observations": [[1, 2]]}
STAGES = ["begin_s", "queue_s", "graph_s", "commit_s", "answer_s"]
NEVER_S, ALWAYS_S = 3600, 1e-9


def captured():
    return structlog.testing.capture_logs([structlog.contextvars.merge_contextvars])


@pytest.mark.parametrize("path", ["/v1/sessions/s/steps", "/v1/sessions/s/steps?x=1"])
async def test_a_slow_step_says_where_its_time_went(path):
    async with listening(slow_request_s=ALWAYS_S) as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        with captured() as logs:
            (await client.post(path, json=STEP, headers=ID)).raise_for_status()
    [line] = [entry for entry in logs if entry["event"] == "slow or failed request"]
    assert (line["request_id"], line["session"], line["tenant"]) == ("slow-1", "s", "default")
    assert (line["model"], line["version"], line["batches"]) == ("load", "1", 1)
    spent = [line[stage] for stage in STAGES]
    assert all(seconds >= 0 for seconds in spent)
    assert sum(spent) == pytest.approx(line["seconds"], abs=1e-4)


async def test_a_slow_message_says_where_its_time_went():
    async with listening(slow_request_s=ALWAYS_S) as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        with captured() as logs:
            url = f"ws://127.0.0.1:{client.port}/v1/stream"
            async with connect(url, additional_headers=ID) as socket:
                await socket.send(json.dumps(STEP | {"session": "s"}))
                await socket.recv()
    [line] = [entry for entry in logs if entry["event"] == "slow step of a stream"]
    assert (line["request_id"], line["session"], line["tenant"]) == ("slow-1", "s", "default")
    assert (line["model"], line["version"], line["batches"]) == ("load", "1", 1)
    assert sum(line[stage] for stage in STAGES) == pytest.approx(line["seconds"], abs=1e-4)


async def test_a_stream_of_events_is_not_slow_for_lasting_long():
    async with listening(slow_request_s=ALWAYS_S) as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        with captured() as logs:
            async with client.stream("GET", "/v1/sessions/s/events") as events:
                await anext(events.aiter_lines())
            gauge = client.app.context.metrics._streams_open.labels("events")
            await until(lambda: gauge._value.get() == 0)
            (await client.get("/v1/sessions/s")).raise_for_status()
    assert [entry["route"] for entry in logs] == ["/v1/sessions/{session}"]


@pytest.mark.parametrize("slow_request_s", [0, NEVER_S])
async def test_what_is_not_slow_is_not_logged(slow_request_s):
    async with listening(slow_request_s=slow_request_s) as client:
        with captured() as logs:
            (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
            (await client.post("/v1/sessions/s/steps", json=STEP)).raise_for_status()
            async with connect(f"ws://127.0.0.1:{client.port}/v1/stream") as socket:
                await socket.send(json.dumps(STEP | {"session": "s"}))
                await socket.recv()
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []
