"""A session behind the real nginx goes on, exact, while the replicas behind it die in turns."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.deploy.front import running_nginx
from tests.e2e.server import running_server
from tests.engine.support import rows
from tests.fakes.bundles import write_forecaster

NUM_STEPS = 60


def careful_step(url: str, count: int, row: list[float]) -> dict:
    """A client that repeats a step with its number until it knows what became of it."""
    body = {"step": count, "observations": [row]}
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            answer = httpx.post(f"{url}/v1/sessions/s/steps", json=body, timeout=10)
        except httpx.TransportError:
            pass
        else:
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code in (502, 503), answer.text
        time.sleep(0.1)  # the front asks a replica that failed again after two seconds
    raise AssertionError(f"step {count} was never answered")


def test_a_session_is_exact_while_the_replica_that_it_prefers_dies(tmp_path: Path) -> None:
    write_forecaster(tmp_path / "models")
    settings = {"models": tmp_path / "models", "store": f"sqlite:///{tmp_path}/carry.db"}
    values = [[0.0 if v != v else float(v) for v in row] for row in rows(NUM_STEPS)]
    with ExitStack() as stack:
        for name in "ab":
            (tmp_path / name).mkdir()
        a, b = (stack.enter_context(running_server(tmp_path / n, **settings)) for n in "ab")
        url = stack.enter_context(running_nginx(tmp_path, [a.port, b.port]))
        create = {"model": "load", "session": "s", "start": "2016-08-22"}
        httpx.post(f"{url}/v1/sessions", json=create).raise_for_status()
        for count, row in enumerate(values):
            if count == NUM_STEPS // 3:
                a.stop(signal.SIGKILL)
            if count == 2 * NUM_STEPS // 3:
                a.restart()
                b.stop(signal.SIGKILL)
            answer = careful_step(url, count, row)
            assert answer["step"] == count + 1
        whole = {"instances": [{"start": create["start"], "observations": values}]}
        expected = httpx.post(f"{url}/v1/models/load/predict", json=whole).raise_for_status().json()
        assert answer["prediction"]["mean"] == pytest.approx(
            expected["predictions"][0]["mean"], abs=1e-4
        )
