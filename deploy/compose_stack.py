"""The containers of docker-compose.yml, for compose_check.py, and a careful client of theirs.

Environment: COMPOSE and DOCKER, the two programs.
"""

import json
import math
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

SERVICE = "http://127.0.0.1:8000"
PROMETHEUS = "http://127.0.0.1:9090"
WAIT_S = 90.0
STEP_S = 120.0


class Stream(threading.Thread):
    """One session, stepped until `stop`; its client repeats each step with its number until it
    knows what became of it, and keeps what it sent."""

    def __init__(self, session: str, model: dict[str, Any], pause_s: float) -> None:
        super().__init__(name=session)
        self.session = session
        self._model = model["name"]
        self._column = model["columns"][0]["name"]
        self._pause_s = pause_s
        self._stopped = threading.Event()
        self.rows: list[dict[str, float]] = []
        self.num_repeated = 0
        self.answer: dict[str, Any] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            opening = {"model": self._model, "session": self.session, "start": "2024-01-01"}
            post("/v1/sessions", opening)
            while not self._stopped.wait(self._pause_s):
                self._step()
        except BaseException as error:  # said by `finish`, in the main thread
            self.error = error

    def _step(self) -> None:
        number = len(self.rows)
        row = {self._column: round(20 + 10 * math.sin(number / 3) + len(self.session), 3)}
        deadline = time.monotonic() + STEP_S
        while True:
            try:
                body = {"step": number, "observations": [row]}
                self.answer = post(f"/v1/sessions/{self.session}/steps", body)
                break
            except urllib.error.HTTPError as error:
                if error.code not in (502, 503):
                    raise AssertionError(error.code, error.read()) from None
            except (OSError, urllib.error.URLError):
                pass
            assert time.monotonic() < deadline, f"{self.session} waits {STEP_S} s for step {number}"
            self.num_repeated += 1
            time.sleep(0.1)
        self.rows.append(row)
        assert self.answer["step"] == len(self.rows), (self.answer["step"], len(self.rows))

    def finish(self) -> None:
        """Stop, and compare with the same rows given to the model at once."""
        self._stopped.set()
        self.join()
        if self.error is not None:
            raise self.error
        instance = {"start": "2024-01-01", "observations": self.rows}
        whole = post(f"/v1/models/{self._model}/predict", {"instances": [instance]})
        expected = whole["predictions"][0]["mean"]
        found = self.answer["prediction"]["mean"]
        for one, other in zip(found, expected, strict=True):
            assert math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4), (found, expected)
        assert get(f"{SERVICE}/v1/sessions/{self.session}")["step"] == len(self.rows)


def query(expression: str) -> list[dict[str, Any]]:
    words = urllib.parse.urlencode({"query": expression})
    result: list[dict[str, Any]] = get(f"{PROMETHEUS}/api/v1/query?{words}")["data"]["result"]
    return result


def get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 our own addresses
        found: dict[str, Any] = json.load(answer)
    return found


def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 our own address
        SERVICE + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
    return found


def wait_until(holds: Callable[[], bool], claim: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {WAIT_S:.0f} s: {claim}"
        time.sleep(0.2)


def containers(service: str) -> list[str]:
    """Ids of the running ones."""
    return compose("ps", "--quiet", service).split()


def state(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(os.environ["DOCKER"], "inspect", container))[0]["State"]
    return found


def is_well(container: str) -> bool:
    found = state(container)
    return bool(found["Running"]) and found["Health"]["Status"] == "healthy"


def inside(service: str, *words: str) -> str:
    return compose("exec", "-T", service, *words).strip()


def fails(*words: str) -> bool:
    command = [os.environ["COMPOSE"], "exec", "-T", *words]
    return subprocess.run(command, capture_output=True).returncode != 0  # noqa: S603 our words


def compose(*words: str) -> str:
    return run(os.environ["COMPOSE"], "--progress", "quiet", *words)


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)  # noqa: S603 our words
    return done.stdout


def say(claim: str) -> None:
    sys.stdout.write(f"ok  {claim}\n")
    sys.stdout.flush()
