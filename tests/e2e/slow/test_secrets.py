"""Nothing that the service writes holds a key, a password, an observation, a text or a state."""

import asyncio
import base64
import json
import signal

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.errors import InvalidInputError, StoreUnavailableError
from service.telemetry.logs import describe_exception, without_values
from tests.api.keys import headers, keys_file
from tests.e2e.crashing_service import AT_COMMIT, AT_SUBMIT, IN_GRAPH
from tests.e2e.server import running_server
from tests.fakes.bundles import write_classifier, write_forecaster
from tests.stores.valkey import SAFE, Valkey

PASSWORD = "valkeys-own-password"
SIGNING = "5ca1ab1e" * 8
WRONG = {
    "header": "carry_wrong-in-a-header",
    "basic": base64.b64encode(b"ada:wrong-as-a-password").decode(),
    "query": "carry_wrong-in-the-query",
    "path": "carry_wrong-in-the-path",
    "cookie": "carry_wrong-in-a-cookie",
    "body": "carry_wrong-in-the-body",
    "subprotocol": "carry_wrong-as-a-subprotocol",
}
OBSERVED = 7351.125  # a number like no other here
TEXT = "Dear diary, nobody may read this"
PATIENT = "Jane Q. Public"
HALF = json.dumps({"text": f"{TEXT}\ud800"})  # of a character
JSON = {"content-type": "application/json"}
STEPS = "/v1/sessions/s/steps"


def wrong_keys(url):
    """A key that is none, wherever one might put it."""
    ask = httpx.Client(base_url=url)
    with ask:
        assert ask.get("/v1/sessions", headers=headers(WRONG["header"])).status_code == 401
        basic = {"Authorization": f"Basic {WRONG['basic']}"}
        assert ask.get("/v1/sessions", headers=basic).status_code == 401
        assert ask.get(f"/v1/sessions?key={WRONG['query']}").status_code == 401
        assert ask.get(f"/{WRONG['path']}").status_code == 401
        assert ask.get("/v1/sessions", headers={"Cookie": WRONG["cookie"]}).status_code == 401
        assert ask.post("/v1/sessions", json={"key": WRONG["body"]}).status_code == 401
    with pytest.raises(InvalidStatus):
        connect(
            url.replace("http", "ws") + f"/v1/stream?key={WRONG['query']}",
            subprotocols=["carry.v1", f"carry.key.{WRONG['subprotocol']}"],
        )


def ordinary_work(client, key):
    """Of every kind, right and wrong; what comes back is as it should be. A snapshot's state."""

    def told(status, method, path, **sent):
        answer = client.request(method, path, **sent)
        assert answer.status_code == status, answer.text
        return answer

    opening = {"model": "load", "session": "s", "start": "2016-08-22"}
    told(201, "POST", "/v1/sessions", json=opening | {"metadata": {"patient": PATIENT}})
    told(201, "POST", "/v1/sessions", json={"model": "mood", "session": "t"})
    row = {"observations": [[OBSERVED, 1]]}
    told(200, "POST", STEPS, json=row)
    told(200, "POST", STEPS + "?x=1", json=row)
    told(409, "POST", STEPS, json=row | {"step": 99})
    told(422, "POST", STEPS, json={"observations": [[OBSERVED, TEXT]]})
    told(400, "POST", STEPS, content=f'{{"text": "{TEXT}', headers=JSON)
    told(415, "POST", STEPS, content=TEXT)
    told(200, "POST", "/v1/sessions/t/steps", json={"text": TEXT})
    told(422, "POST", "/v1/sessions/t/steps", content=HALF, headers=JSON)
    told(200, "POST", "/v1/models/mood/predict", json={"instances": [{"text": TEXT}]})
    told(422, "POST", "/v1/models/load/predict", json={"instances": [{"text": TEXT}]})
    told(200, "POST", "/v1/steps", json={"steps": [row | {"session": "s"}]})
    told(404, "GET", f"/nowhere/{WRONG['path']}")
    told(404, "GET", f"/v1/models/{PATIENT}")
    snapshot = told(200, "GET", "/v1/sessions/s/snapshot").content
    told(422, "PUT", "/v1/sessions/u/snapshot", content=snapshot[:-1] + b"x",
         headers={"content-type": "application/octet-stream"})  # fmt: skip
    url = f"{str(client.base_url).replace('http', 'ws')}/v1/stream"
    with connect(url, subprotocols=["carry.v1", f"carry.key.{key}"]) as socket:
        for message in (row | {"session": "s"}, {"session": "s", "text": TEXT}, {"text": TEXT}):
            socket.send(json.dumps(message))
            assert PATIENT not in socket.recv()
    return snapshot


def crashes(client, key):
    """Defects on every way, in the middle of the engine too."""
    doomed = [{"observations": [[number, OBSERVED]]} for number in (AT_SUBMIT, IN_GRAPH, AT_COMMIT)]
    statuses = []
    for path in (STEPS, STEPS + "?x=1"):
        statuses += [client.post(path, json=body).status_code for body in doomed]
    url = f"{str(client.base_url).replace('http', 'ws')}/v1/sessions/s/stream"
    with connect(url, subprotocols=["carry.v1", f"carry.key.{key}"]) as socket:
        socket.recv()
        for body in doomed:
            socket.send(json.dumps(body))
            statuses.append(json.loads(socket.recv())["status"])
    assert statuses == [500, 500, 503] * 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """All that was written by a service that met all this, and the keys that it was given."""
    folder = tmp_path_factory.mktemp("secrets")
    write_forecaster(folder / "models")
    write_classifier(folder / "models")
    file, keys = keys_file(folder, ada="user")
    (folder / "password").write_text(PASSWORD)
    (folder / "signing").write_text(SIGNING)
    store = Valkey(**SAFE, requirepass=PASSWORD)
    try:
        with running_server(
            folder,
            module="tests.e2e.crashing_service",
            models=folder / "models",
            store=store.url,
            store_password_file=folder / "password",
            store_timeout_s=5,
            api_keys_file=file,
            snapshot_key_file=folder / "signing",
            log_level="debug",
            slow_request_s=1e-6,
        ) as server:
            wrong_keys(server.url)
            with httpx.Client(
                base_url=server.url, headers=headers(keys["ada"]), timeout=60
            ) as client:
                snapshot = ordinary_work(client, keys["ada"])
                crashes(client, keys["ada"])
                store.kill()
                row = {"observations": [[OBSERVED, 1]]}
                assert client.post(STEPS, json=row).status_code == 503
                file.write_text(f"broken = {keys['ada']}")
                store._file.write_text(store._file.read_text().replace(PASSWORD, "another"))
                store.start()
                assert client.post(STEPS, json=row).status_code in (401, 503)
            assert server.stop(signal.SIGTERM) == 0
            return server.log.read_text(), keys["ada"], snapshot
    finally:
        store.close()


def test_the_log_tells_of_all_that_happened(world):
    written, _, _ = world
    lines = [json.loads(line) for line in written.splitlines()]
    events = {line["event"] for line in lines}
    assert events >= {"unexpected error", "request failed", "slow or failed request",
                      "slow step of a stream", "session store is unreachable"}  # fmt: skip
    told = [line["exception"] for line in lines if "exception" in line]
    assert any(text.endswith("ValueError") for text in told)
    assert any("RuntimeError" in text and "ModelFailedError: model 'load'" in text for text in told)
    unexpected = [line["exception"] for line in lines if line["event"] == "unexpected error"]
    assert all("crashing_service.py" in text for text in unexpected), unexpected
    for line in lines:
        assert line["level"]
        assert line["timestamp"]


def test_nothing_of_what_must_not_be_told_is_written(world):
    written, key, snapshot = world
    secrets = {"key": key, "password": PASSWORD, "signing": SIGNING, "patient": PATIENT}
    secrets |= WRONG | {"observed": str(OBSERVED), "text": "diary"}
    secrets["state"] = base64.b64encode(snapshot).decode()[40:80]
    secrets["rows"] = repr(AT_SUBMIT)
    assert {name for name, secret in secrets.items() if secret in written} == set()
    assert repr(snapshot[40:60])[2:-1] not in written


def test_what_asyncio_logs_is_without_arguments_and_results():
    future = asyncio.Future(loop=asyncio.new_event_loop())
    future.set_exception(ValueError("a diary"))
    for kept, left_out in (
        ("Task exception was never retrieved", f"\nfuture: {future!r}"),
        ("Exception in callback answer", "('a diary')\nhandle: <Handle answer('a diary')>"),
    ):
        assert "diary" in left_out
        said = without_values(None, "error", {"logger": "asyncio", "event": kept + left_out})
        assert said["event"] == kept
    assert future.exception()
    future.get_loop().close()


def failure(error, cause=None):
    """An exception as it is caught."""
    with pytest.raises(type(error)) as caught:
        raise error from cause
    return caught.type, caught.value, caught.tb


@pytest.mark.parametrize(
    ("errors", "told", "untold"),
    [
        ([ValueError("a diary")], "ValueError", "a diary"),
        ([OSError(28, "No space left on device")], "No space left on device", "\0"),
        ([StoreUnavailableError("away"), KeyError("a diary")], "away", "a diary"),
        ([InvalidInputError("got 'a diary'")], "InvalidInputError", "a diary"),
        ([ValueError("a diary"), OSError("disk gone")], "disk gone", "a diary"),
    ],
)
def test_an_exception_says_only_what_is_nobodys_own(errors, told, untold):
    said = describe_exception(failure(*errors))
    assert told in said
    assert untold not in said
    assert "in failure" in said
