"""What the front promises, tried on the real nginx with the shipped configuration."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
from websockets.sync.client import connect
from websockets.sync.server import serve

from service.api.request_scope import MAX_ID_CHARS, request_id_of
from service.settings import Settings
from tests.deploy.front import NGINX, Replica, running_nginx
from tests.system import free_port, in_thread

WIDE_ID = "Root=1-a:b/c+d@e~f_g.h"  # every character that an id may have


def test_a_post_that_a_replica_saw_is_never_sent_again(tmp_path: Path) -> None:
    with Replica(dies=True) as a, Replica(dies=True) as b:
        with running_nginx(tmp_path, [a.port, b.port]) as url:
            answer = httpx.post(f"{url}/v1/sessions/s/steps", json={"step": 0})
        assert answer.status_code == 502
        assert answer.json()["type"] == "urn:carry:no-answer"
        assert a.requests + b.requests == [("POST", "/v1/sessions/s/steps")]


def test_a_get_is_asked_of_the_next_replica(tmp_path: Path) -> None:
    with Replica(dies=True) as a, Replica(dies=True) as b:
        with running_nginx(tmp_path, [a.port, b.port]) as url:
            assert httpx.get(f"{url}/v1/sessions/s").status_code == 502
        assert len(a.requests) == len(b.requests) == 1


def test_a_post_that_no_replica_took_goes_to_the_next(tmp_path: Path) -> None:
    nobody = free_port()
    with Replica() as replica, running_nginx(tmp_path, [nobody, replica.port]) as url:
        for place in range(20):
            path = f"/v1/sessions/s{place}/steps"
            assert httpx.post(url + path, json={}).status_code == 200
        assert len(replica.requests) == 20


def test_a_session_keeps_to_one_replica_and_others_spread(tmp_path: Path) -> None:
    with Replica() as a, Replica() as b, running_nginx(tmp_path, [a.port, b.port]) as url:
        for place in range(40):
            for kind in ("steps", "preview"):
                httpx.post(f"{url}/v1/sessions/s{place}/{kind}", json={})
        seen = [{path.split("/")[3] for _, path in each.requests} for each in (a, b)]
        assert not seen[0] & seen[1]
        assert min(len(seen[0]), len(seen[1])) > 5
        before = len(a.requests), len(b.requests)
        for _ in range(40):
            httpx.get(f"{url}/v1/models")
        assert len(a.requests) > before[0]
        assert len(b.requests) > before[1]


def test_an_event_is_passed_on_when_it_is_written(tmp_path: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = stack.enter_context(running_nginx(tmp_path, [listener.getsockname()[1]]))
        client = stack.enter_context(httpx.Client())
        asked = client.build_request("GET", f"{url}/v1/sessions/s/events")
        answer = stack.enter_context(in_thread(client.send, asked, stream=True))
        replica, _ = listener.accept()
        stack.enter_context(replica)
        replica.recv(65536)
        replica.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunks = answer.result(10).iter_raw()
        for number in range(3):  # the next is written only when this one has come
            event = b"id: %d\n\n" % number
            replica.sendall(b"%x\r\n%s\r\n" % (len(event), event))
            assert next(chunks) == event
        replica.sendall(b"0\r\n\r\n")
        assert list(chunks) == []


def test_no_upgrade_but_the_handshake_of_a_stream_goes_through(tmp_path: Path) -> None:
    asked = [
        ("POST", "/v1/sessions/s/steps", "h2c"),
        ("POST", "/v1/sessions/s/steps", "websocket"),
        ("GET", "/v1/models", "websocket"),
        ("GET", "/v1/sessions/s/events", "websocket"),
        ("POST", "/v1/stream", "websocket"),
        ("GET", "/v1/stream", "h2c"),
        ("GET", "/v1/stream", "websocket, h2c"),
        ("GET", "/v1/a/b/stream", "websocket"),
        ("GET", "/v1/stream", "WebSocket"),
        ("GET", "/v1/sessions/s/stream?x=1", "websocket"),
    ]
    with Replica() as replica, running_nginx(tmp_path, [replica.port]) as url:
        for method, path, upgrade in asked:
            headers = {"Connection": "Upgrade", "Upgrade": upgrade}
            assert httpx.request(method, url + path, headers=headers).status_code == 200
    passed = [headers.get("Upgrade") for headers in replica.headers]
    assert passed == [None] * 8 + ["websocket"] * 2
    assert [headers.get("Connection") for headers in replica.headers] == [None] * 8 + [
        "upgrade"
    ] * 2


def test_a_websocket_passes(tmp_path: Path) -> None:
    def echo(connection) -> None:
        for message in connection:
            connection.send(message)

    with (
        serve(echo, "127.0.0.1", 0) as server,
        in_thread(server.serve_forever, stop=server.shutdown),
        running_nginx(tmp_path, [server.socket.getsockname()[1]]) as url,
    ):
        for path in ("/v1/stream", "/v1/sessions/s/stream"):
            with connect(url.replace("http", "ws") + path, proxy=None) as client:
                for message in ("one", "two"):
                    client.send(message)
                    assert client.recv(10) == message


def test_request_ids_and_guards_are_there_once(tmp_path: Path) -> None:
    with Replica() as replica, running_nginx(tmp_path, [replica.port]) as url:
        given = {"X-Request-ID": WIDE_ID, "X-Forwarded-For": "10.9.8.7"}
        kept = httpx.get(f"{url}/v1/models", headers=given)
        made = httpx.get(f"{url}/v1/models", headers={"X-Request-ID": "no id: \x7f"})
        assert kept.headers["X-Request-ID"] == replica.headers[0]["X-Request-ID"] == WIDE_ID
        assert made.headers["X-Request-ID"] == replica.headers[1]["X-Request-ID"]
        assert len(made.headers["X-Request-ID"]) == 32
        assert replica.headers[0]["X-Forwarded-For"] == "127.0.0.1"
        assert kept.headers.get_list("X-Content-Type-Options") == ["nosniff"]
        assert "nginx/" not in kept.headers["Server"]


def test_the_front_takes_ids_as_the_service_does_and_names_them_in_its_own_problems(
    tmp_path: Path,
) -> None:
    assert request_id_of(WIDE_ID.encode()) == WIDE_ID
    longest = "a" * MAX_ID_CHARS
    with running_nginx(tmp_path, [free_port()]) as url:  # nobody is behind it
        for said in (WIDE_ID, longest):
            answer = httpx.get(f"{url}/v1/models", headers={"X-Request-ID": said})
            assert (answer.status_code, answer.headers["X-Request-ID"]) == (502, said)
            assert answer.json()["request_id"] == said
        too_long = httpx.get(f"{url}/v1/models", headers={"X-Request-ID": longest + "a"})
        assert len(too_long.json()["request_id"]) == 32


def test_the_log_names_no_session_and_no_query(tmp_path: Path) -> None:
    with Replica() as replica, running_nginx(tmp_path, [replica.port]) as url:
        httpx.post(f"{url}/v1/sessions/secret-name/steps?token=hidden", json={})
        httpx.get(f"{url}/v1/models?token=hidden")
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["/v1/sessions/*/steps", "/v1/models"]
    assert [line["status"] for line in lines] == [200, 200]
    assert "secret-name" not in (tmp_path / "access.log").read_text()


def test_bodies_are_bounded_as_the_service_bounds_them(tmp_path: Path) -> None:
    assert Settings.model_fields["max_body_bytes"].default == 16 * 2**20
    with Replica() as replica, running_nginx(tmp_path, [replica.port]) as url:
        answer = httpx.post(f"{url}/v1/models/m/predict", content=b"x" * 2**20)
        assert len(answer.content) == 2**20
        answer = httpx.post(f"{url}/v1/models/m/predict", content=b"x" * (16 * 2**20 + 1))
        assert answer.status_code == 413
        assert answer.json()["type"] == "urn:carry:too-large"
        assert len(replica.requests) == 1


def test_metrics_of_a_replica_are_not_published(tmp_path: Path) -> None:
    with Replica() as replica, running_nginx(tmp_path, [replica.port]) as url:
        assert httpx.get(f"{url}/metrics").status_code == 404
        assert not replica.requests


def test_idle_connections_are_dropped_before_the_service_drops_them() -> None:
    from uvicorn import Config

    service_s = Config("app").timeout_keep_alive
    [front_s] = [
        int(line.split()[1].rstrip("s;"))
        for line in (NGINX / "replicas.conf").read_text().splitlines()
        if line.strip().startswith("keepalive_timeout")
    ]
    assert front_s < service_s
