"""Traces of the real service, as a collector gets them."""

import json
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest
from websockets.sync.client import connect

from tests.e2e.collector import collecting
from tests.e2e.server import ROOT, running_server
from tests.fakes.bundles import write_forecaster

OPEN = {"model": "load", "session": "s", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}
STEPS = "/v1/sessions/s/steps"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SERVER = 2


def traced(number, is_sampled=True):
    """A traceparent of a trace of its own, and the id of that."""
    trace = f"{number:032x}"
    return {"traceparent": f"00-{trace}-{CALLER}-{is_sampled:02x}"}, trace


def is_sampled(answer):
    return bool(int(answer.headers["traceresponse"].rpartition("-")[2], 16) & 1)


@contextmanager
def serving(folder, endpoint, **settings):
    if not (folder / "models").exists():
        write_forecaster(folder / "models")
    given = {"models": folder / "models", "store": "memory://", "otlp_endpoint": endpoint}
    with running_server(folder, **given | settings) as server:
        httpx.post(server.url + "/v1/sessions", json=OPEN).raise_for_status()
        yield server


@pytest.fixture(scope="module")
def collector_and_server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as environment, collecting() as (collector, endpoint):
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # ms
        with serving(tmp_path_factory.mktemp("traces"), endpoint, traces_ratio=0) as server:
            yield collector, server


@pytest.mark.parametrize(
    ("number", "path"), [(1, STEPS), (2, STEPS + "?x=1")], ids=["short way", "ordinary way"]
)
def test_a_step_is_a_span_of_its_callers_trace_with_its_parts(collector_and_server, number, path):
    collector, server = collector_and_server
    headers, trace = traced(number)
    answer = httpx.post(server.url + path, json=STEP, headers=headers | {"X-Request-ID": "r1"})
    assert answer.status_code == 200
    spans = collector.wait_for_trace(trace, f"POST {STEPS.replace('/s/', '/{session}/')}",
                                     "queue", "graph", "commit")  # fmt: skip
    request = spans.pop("POST /v1/sessions/{session}/steps")
    assert (request.parent_id, request.kind) == (CALLER, SERVER)
    assert answer.headers["traceresponse"].startswith(f"00-{trace}-{request.span_id}-")
    assert is_sampled(answer)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/sessions/{session}/steps",
        "http.response.status_code": 200,
        "carry.request_id": "r1",
        "carry.session": "s",
        "carry.model": "load",
        "carry.version": "1",
    }
    assert spans.keys() == {"queue", "graph", "commit"}
    assert {span.parent_id for span in spans.values()} == {request.span_id}
    queue, graph, commit = spans["queue"], spans["graph"], spans["commit"]
    assert request.began <= queue.began <= queue.ended <= graph.began < graph.ended
    assert graph.ended <= commit.began <= commit.ended <= request.ended
    batches = {span.own_link: span for span in collector.spans if span.name == "batch"}
    [link] = graph.links
    batch = batches[link]
    assert batch.links == {request.own_link}
    assert batch.attributes["carry.rows"] == 1
    assert abs(batch.began - graph.began) < 1_000  # ns: one clock
    assert request.resource["service.name"] == "carry"


def test_a_message_of_a_stream_is_a_trace_of_its_own_linked_to_its_callers(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    headers, trace = traced(3)
    with (
        collecting() as (collector, endpoint),
        serving(tmp_path, endpoint, traces_ratio=1) as server,
    ):
        url = f"ws://127.0.0.1:{server.port}/v1/sessions/s/stream"
        with connect(url, additional_headers=headers | {"X-Request-ID": "r3"}) as socket:
            socket.recv()
            for _ in range(2):
                socket.send(json.dumps(STEP))
                socket.recv()
        spans = collector.wait_for(
            lambda spans: sum(span.name == "step of a stream" for span in spans) == 2
        )
    steps = [span for span in spans if span.name == "step of a stream"]
    assert len({span.trace_id for span in steps} | {trace}) == 3
    for step in steps:
        assert step.links == {(trace, CALLER)}
        assert step.attributes["carry.request_id"] == "r3"
        assert step.attributes["carry.session"] == "s"
        parts = {span.name for span in spans if span.parent_id == step.span_id}
        assert parts == {"queue", "graph", "commit"}


def test_a_refusal_names_its_trace_and_is_no_failure(collector_and_server):
    collector, server = collector_and_server
    headers, trace = traced(4)
    answer = httpx.post(server.url + STEPS, json=STEP | {"step": 99}, headers=headers)
    assert (answer.status_code, answer.json()["trace_id"]) == (409, trace)
    [span] = collector.wait_for_trace(trace, "POST /v1/sessions/{session}/steps").values()
    assert span.attributes["http.response.status_code"] == 409
    assert not span.has_failed


def test_whoever_does_not_sample_is_not_traced_but_named(collector_and_server):
    collector, server = collector_and_server
    headers, trace = traced(5, is_sampled=False)
    answer = httpx.post(server.url + STEPS, json=STEP | {"step": 99}, headers=headers)
    assert answer.json()["trace_id"] == trace
    assert not is_sampled(answer)
    httpx.post(server.url + STEPS, json=STEP)  # by ratio, which is 0
    headers, later = traced(6)
    httpx.post(server.url + STEPS, json=STEP, headers=headers)
    collector.wait_for_trace(later, "commit")
    assert trace not in {span.trace_id for span in collector.spans}
    requests = [span for span in collector.spans if span.kind == SERVER]
    assert {span.parent_id for span in requests} == {CALLER}


@pytest.mark.parametrize("said", ["", "00-0-0-01", "ff" * 30, f"00-{'0' * 32}-{CALLER}-01"])
def test_a_traceparent_that_does_not_fit_is_ignored(collector_and_server, said):
    _, server = collector_and_server
    answer = httpx.post(server.url + STEPS, json=STEP, headers={"traceparent": said})
    assert answer.status_code == 200
    assert "traceresponse" not in answer.headers  # it is one of its own, by a ratio of 0


def test_what_is_left_is_sent_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    headers, trace = traced(7)
    with collecting() as (collector, endpoint), serving(tmp_path, endpoint) as server:
        httpx.post(server.url + STEPS, json=STEP, headers=headers).raise_for_status()
        assert collector.spans == []
        assert server.stop(signal.SIGTERM) == 0
        collector.wait_for_trace(trace, "queue", "graph", "commit")


def test_a_collector_that_is_away_keeps_nobody_waiting(tmp_path):
    headers, _ = traced(8)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connections are made, nobody answers
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with serving(tmp_path, endpoint) as server:
            for _ in range(3):
                httpx.post(server.url + STEPS, json=STEP, headers=headers).raise_for_status()
            assert server.stop(signal.SIGTERM) == 0
            assert "did not accept the last spans" in server.log.read_text() or (
                "Failed to export" in server.log.read_text()
            )


def test_without_an_endpoint_nothing_of_it_is_imported(tmp_path):
    write_forecaster(tmp_path / "models")
    # Other libraries import the API of OpenTelemetry where they find it.
    ours = {"service.telemetry.tracing", "opentelemetry.sdk.trace", "opentelemetry.exporter"}
    program = (
        "import sys; from service.app import create_app; from service.settings import Settings;"
        f"create_app(Settings(models={str(tmp_path / 'models')!r}, store='memory://'));"
        f"print(file=sys.stderr, *{ours!r}.intersection(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stderr == "\n"
