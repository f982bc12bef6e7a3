"""What `/metrics` says, in both of its forms."""

import json
import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text
from websockets.asyncio.client import connect

from service.errors import RecordUnreadableError
from tests.api.keys import keys_file
from tests.api.support import listening, until
from tests.api.test_protocol import OPEN
from tests.e2e.collector import collecting
from tests.fakes.bundles import write_forecaster

STEP = {"observations": [[1, 2]]}
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)


@pytest.fixture
async def client():
    async with listening(slow_request_s=3600) as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        yield client


async def families(client):
    """Of the OpenMetrics form, by name."""
    answer = await client.get("/metrics", headers={"accept": PROMETHEUS})
    kind = answer.headers["content-type"]
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    return {family.name: family for family in parse_open(answer.text)}


async def value(client, name, **labels):
    family = (await families(client))[re.sub("_(total|count)$", "", name)]
    [found] = [
        sample.value
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def exemplars(family, route):
    return [
        sample.exemplar.labels
        for sample in family.samples
        if sample.exemplar and sample.labels["route"] == route
    ]


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain", "text/html;q=1, x", "version=a"])
async def test_whoever_does_not_ask_for_open_metrics_gets_text(client, accept):
    headers = {} if accept is None else {"accept": accept}
    answer = await client.get("/metrics", headers=headers)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert {family.name for family in parse_text(answer.text)} >= {"carry_steps", "carry_streams"}


async def test_both_forms_say_the_same(client):
    await client.post("/v1/sessions/s/steps", json=STEP)
    found = await families(client)
    text = (await client.get("/metrics")).text
    assert {family.name for family in parse_text(text)} == found.keys()


async def test_a_traced_request_leaves_its_trace_as_an_exemplar():
    with collecting() as (_, endpoint):
        async with listening(otlp_endpoint=endpoint, traces_ratio=1) as client:
            (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
            answer = await client.post("/v1/sessions/s/steps", json=STEP)
            family = (await families(client))["carry_http_request_seconds"]
    trace = answer.headers["traceresponse"].split("-")[1]
    assert exemplars(family, "/v1/sessions/{session}/steps") == [{"trace_id": trace}]


@pytest.mark.parametrize("path", ["/v1/sessions/s/steps", "/v1/sessions/s/steps?x=1"])
async def test_a_slow_request_leaves_its_id_as_an_exemplar(path):
    async with listening(slow_request_s=1e-9) as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        headers = {"X-Request-ID": "i" * 100}
        await client.post(path, json=STEP, headers=headers)
        family = (await families(client))["carry_http_request_seconds"]
    assert exemplars(family, "/v1/sessions/{session}/steps") == [{"request_id": "i" * 100}]


async def test_an_ordinary_request_leaves_none(client):
    await client.post("/v1/sessions/s/steps", json=STEP)
    family = (await families(client))["carry_http_request_seconds"]
    assert exemplars(family, "/v1/sessions/{session}/steps") == []


async def test_websockets_are_counted_while_they_are_open(client):
    url = f"ws://127.0.0.1:{client.port}/v1/stream"
    metrics = client.app.context.metrics
    async with connect(url) as socket:
        for step in (0, 1, 1):  # the last one again
            await socket.send(json.dumps(STEP | {"session": "s", "step": step}))
            await socket.recv()
        assert await value(client, "carry_streams_open", kind="websocket") == 1
        assert await value(client, "carry_streams_total", kind="websocket") == 1
        assert await value(client, "carry_stream_messages_total", kind="websocket") == 3
        assert await value(client, "carry_stream_resumes_total", kind="websocket") == 1
    gauge = metrics._streams_open.labels("websocket")
    await until(lambda: gauge._value.get() == 0)


async def test_event_streams_are_counted_while_they_are_open(client):
    (await client.post("/v1/sessions/s/steps", json=STEP)).raise_for_status()
    metrics = client.app.context.metrics
    headers = {"Last-Event-ID": "0"}
    async with client.stream("GET", "/v1/sessions/s/events", headers=headers) as events:
        lines = events.aiter_lines()
        while not (await anext(lines)).startswith("event: step"):
            pass
        assert await value(client, "carry_streams_open", kind="events") == 1
        assert await value(client, "carry_streams_total", kind="events") == 1
        assert await value(client, "carry_stream_resumes_total", kind="events") == 1
    gauge = metrics._streams_open.labels("events")
    await until(lambda: gauge._value.get() == 0)
    assert await value(client, "carry_stream_messages_total", kind="events") >= 1
    assert await value(client, "carry_streams_open", kind="websocket") == 0


async def test_every_request_of_a_session_whose_model_is_gone_is_counted_once(tmp_path):
    write_forecaster(tmp_path)
    async with listening(models=tmp_path, models_poll_s=0, unload_grace_s=0) as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        errors = "carry_session_errors_total"
        assert await value(client, errors, code="version-gone") == 0
        (await client.post("/v2/repository/models/load/unload")).raise_for_status()
        registry = client.app.context.engine.registry
        await until(lambda: not registry.retiring)
        for path in ("steps", "steps?x=1", "preview"):
            answer = await client.post(f"/v1/sessions/s/{path}", json=STEP)
            assert answer.json()["type"] == "urn:carry:version-gone"
        in_bulk = [STEP | {"session": "s"}]
        (await client.post("/v1/steps", json={"steps": in_bulk})).raise_for_status()
        async with connect(f"ws://127.0.0.1:{client.port}/v1/stream") as socket:
            await socket.send(json.dumps(STEP | {"session": "s"}))
            assert "version-gone" in await socket.recv()
        assert await value(client, errors, code="version-gone") == 5


async def test_every_request_that_meets_an_unreadable_record_is_counted_once(client, monkeypatch):
    async def refuse(key):
        raise RecordUnreadableError(f"session {key.name!r} is damaged")

    errors = "carry_session_errors_total"
    assert await value(client, errors, code="record-unreadable") == 0
    monkeypatch.setattr(client.app.context.engine.store, "load", refuse)
    answers = [
        await client.post("/v1/sessions/damaged/steps", json=STEP),
        await client.get("/v1/sessions/damaged"),
        await client.get("/v1/sessions/damaged/events"),
        await client.post("/v1/sessions/damaged/rewind", json={"step": 0}),
    ]
    assert {answer.json()["type"] for answer in answers} == {"urn:carry:record-unreadable"}
    assert await value(client, errors, code="record-unreadable") == len(answers)


async def test_a_stream_of_events_is_counted_but_its_time_is_not(client):
    route = "/v1/sessions/{session}/events"
    assert (await client.get("/v1/sessions/nobody/events")).status_code == 404
    async with client.stream("GET", "/v1/sessions/s/events") as events:
        await anext(events.aiter_lines())
    counted = client.app.context.metrics._answered
    await until(lambda: ("GET", route, 200) in counted)
    assert await value(client, "carry_http_requests_total", route=route, status="200") == 1
    assert await value(client, "carry_http_request_seconds_count", route=route) == 1  # the 404


@pytest.mark.parametrize(
    ("method", "path", "route", "more", "status"),
    [
        ("GET", "/v1/models", "/v1/models", {}, 401),
        ("HEAD", "/v1/models", "/v1/models", {}, 401),
        ("DELETE", "/v1/models", "/v1/models", {}, 401),
        ("GET", "/v1/sessions/s/events", "/v1/sessions/{session}/events", {}, 401),
        ("POST", "/v1/sessions/s/steps", "/v1/sessions/{session}/steps", {"json": STEP}, 401),
        ("GET", "/v2/models/load", "/v2/models/{model}", {}, 401),
        ("POST", "/v1/sessions", "/v1/sessions", {"content": b"x" * 2048}, 401),
        ("GET", "/nowhere", "unmatched", {}, 401),
        ("GET", "/v1/sessions/" + "x" * 200, "/v1/sessions/{session}", {}, 401),
    ],
)
async def test_who_is_refused_for_want_of_a_key_is_counted_by_route(
    tmp_path, method, path, route, more, status
):
    keys, _ = keys_file(tmp_path, ada="user")
    async with listening(api_keys_file=keys) as client:
        assert (await client.request(method, path, **more)).status_code == status
        counted = await value(
            client, "carry_http_requests_total", method=method, route=route, status=str(status)
        )
        assert counted == 1


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-type": "application/json"}, b"x" * 2048, 413),
        ({"content-type": "application/json", "content-encoding": "gzip"}, b"{}", 415),
    ],
)
async def test_a_body_that_is_refused_before_its_route_is_counted_by_it(headers, body, status):
    async with listening(max_body_bytes=1024) as client:
        answer = await client.post("/v1/models/load/predict", content=body, headers=headers)
        assert answer.status_code == status
        route = "/v1/models/{model}/predict"
        assert (
            await value(client, "carry_http_requests_total", route=route, status=str(status)) == 1
        )
