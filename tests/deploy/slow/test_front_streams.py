"""WebSockets and Server-Sent Events of the real service, through the real nginx."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.deploy.front import running_nginx
from tests.e2e.server import Server, running_server
from tests.engine.support import rows
from tests.fakes.bundles import write_forecaster

RING = 8
OPEN = {"model": "load", "session": "s", "start": "2016-08-22", "replay": RING}
PATH = "/v1/sessions/s"
ROWS = [[0.0 if v != v else float(v) for v in row] for row in rows(60)]


@contextmanager
def front(
    folder: Path, names: str, *changes: tuple[str, str]
) -> Iterator[tuple[str, list[Server]]]:
    """Replicas of these names on one store behind nginx; one session is open."""
    write_forecaster(folder / "models")
    with ExitStack() as stack:
        replicas = []
        for name in names:
            (folder / name).mkdir()
            settings = {"models": folder / "models", "store": f"sqlite:///{folder}/carry.db"}
            replicas.append(stack.enter_context(running_server(folder / name, **settings)))
        ports = [each.port for each in replicas]
        url = stack.enter_context(running_nginx(folder, ports, changes))
        # Not through the front, which may be told to wait less than a first request takes.
        httpx.post(f"{replicas[0].url}/v1/sessions", json=OPEN, timeout=20).raise_for_status()
        yield url, replicas


def stream_of(url: str) -> ClientConnection:
    """As a page that the front itself gave out would open it; repeated while a replica is away."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return connect(url.replace("http", "ws") + PATH + "/stream", origin=url, proxy=None)
        except InvalidStatus as error:
            if error.response.status_code not in (502, 503) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)  # the front asks a replica that failed again after two seconds


@contextmanager
def listening_to(url: str, last: int | None = None) -> Iterator[Iterator[tuple[str, str, dict]]]:
    """Events as they come: name, id, data."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with httpx.stream("GET", f"{url}{PATH}/events", headers=headers, timeout=20) as response:
        assert response.status_code == 200

        def events() -> Iterator[tuple[str, str, dict]]:
            said: dict[str, str] = {}
            for line in response.iter_lines():
                name, _, value = line.partition(":")
                assert not line or name, "a sign of life in place of an event"
                if line:
                    said[name] = value.strip()
                elif "data" in said:
                    yield said["event"], said.get("id", ""), json.loads(said["data"])
                    said = {}

        yield events()


def step(url: str, count: int) -> None:
    body = {"step": count, "observations": [ROWS[count]]}
    httpx.post(f"{url}{PATH}/steps", json=body, timeout=20).raise_for_status()


def test_a_stream_is_exact_while_replicas_die_behind_the_front(tmp_path: Path) -> None:
    with front(tmp_path, "ab") as (url, [a, b]):
        answers: list[dict] = []
        dying = {len(ROWS) // 3: a, 2 * len(ROWS) // 3: b}
        num_opened = 0
        while len(answers) < len(ROWS):
            num_opened += 1
            with stream_of(url) as socket:
                try:
                    assert json.loads(socket.recv(20))["step"] >= len(answers)
                    sent = len(answers)
                    while len(answers) < len(ROWS):
                        while sent < min(len(ROWS), len(answers) + RING):
                            socket.send(json.dumps({"step": sent, "observations": [ROWS[sent]]}))
                            sent += 1
                        answers.append(json.loads(socket.recv(20)))
                        assert answers[-1]["step"] == len(answers)
                        if dies := dying.pop(len(answers), None):
                            a.restart() if dies is b else None
                            dies.stop(signal.SIGKILL)
                except ConnectionClosed:
                    pass
        assert num_opened > 1
        whole = {"instances": [{"start": OPEN["start"], "observations": ROWS}]}
        expected = httpx.post(f"{url}/v1/models/load/predict", json=whole, timeout=20)
        assert answers[-1]["prediction"]["mean"] == pytest.approx(
            expected.raise_for_status().json()["predictions"][0]["mean"], abs=1e-4
        )


def test_an_event_comes_before_the_next_step_is_sent_and_what_was_missed_is_told(
    tmp_path: Path,
) -> None:
    with front(tmp_path, "ab") as (url, [a, _]):
        with listening_to(url) as events:
            assert next(events)[:2] == ("open", "0")
            for count in range(5):
                step(url, count)
                assert next(events)[:2] == ("step", str(count + 1))
        for count in range(5, 10):
            step(url, count)
        a.stop(signal.SIGKILL)  # whichever replica told them: the other knows as much
        with listening_to(url, last=5) as events:
            assert next(events)[0] == "open"
            assert [next(events)[1] for _ in range(5)] == ["6", "7", "8", "9", "10"]
            step(url, 10)
            assert next(events)[:2] == ("step", "11")


def test_quiet_streams_outlast_what_a_request_may_take(tmp_path: Path) -> None:
    sooner = ("proxy_read_timeout 60s", "proxy_read_timeout 1s")
    with (
        front(tmp_path, "a", sooner) as (url, [replica]),
        stream_of(url) as socket,
        listening_to(url) as events,
    ):
        assert json.loads(socket.recv(20))["step"] == 0
        assert next(events)[0] == "open"
        replica.process.send_signal(signal.SIGSTOP)
        for _ in range(2):
            answer = httpx.get(f"{url}{PATH}", timeout=20)
            assert (answer.status_code, answer.json()["status"]) == (502, 502)
        replica.process.send_signal(signal.SIGCONT)
        socket.send(json.dumps({"step": 0, "observations": [ROWS[0]]}))
        assert json.loads(socket.recv(20))["step"] == 1
        assert next(events)[:2] == ("step", "1")
