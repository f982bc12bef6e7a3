"""How the service stops and starts: what was accepted is answered, what cannot work is named."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from tests.e2e.server import ROOT, running_server
from tests.engine.support import rows
from tests.fakes.bundles import write_classifier, write_forecaster
from tests.system import in_thread

CREATE = {"model": "load", "session": "s", "start": "2016-08-22", "replay": 2}


@pytest.fixture
def settings(tmp_path):
    write_forecaster(tmp_path / "models")
    write_classifier(tmp_path / "models")
    return {"models": tmp_path / "models", "store": f"sqlite:///{tmp_path}/carry.db"}


def observations(num_rows):
    return [[None if value != value else float(value) for value in row] for row in rows(num_rows)]


def test_a_text_cut_inside_a_word_goes_on_after_a_restart(tmp_path, settings):
    with (
        running_server(tmp_path, **settings) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        client.post("/v1/sessions", json={"model": "mood", "session": "t"}).raise_for_status()
        client.post("/v1/sessions/t/steps", json={"step": 0, "text": "a wonder"})
        server.restart(signal.SIGKILL)
        body = {"step": 1, "text": "ful film"}
        streamed = client.post("/v1/sessions/t/steps", json=body).json()["prediction"]
        body = {"instances": [{"text": "a wonderful film"}]}
        whole = client.post("/v1/models/mood/predict", json=body).json()["predictions"][0]
        assert streamed["probabilities"] == pytest.approx(whole["probabilities"], abs=1e-4)


def test_sigterm_answers_what_was_accepted_and_exits_0(tmp_path, settings):
    long = {"start": "2016-08-22", "observations": observations(100_000)}
    answers = []
    with running_server(tmp_path, **settings) as server:

        def open_with_long_history():
            body = {"model": "load", "session": "long", "history": long}
            answers.append(httpx.post(server.url + "/v1/sessions", json=body, timeout=60))

        with in_thread(open_with_long_history) as opened:
            with httpx.Client(base_url=server.url) as client:
                while (
                    'carry_queue_depth{model="load",version="1"} 1.0'
                    not in client.get("/metrics").text
                ):
                    assert not opened.done(), "the history must still run when the signal comes"
            assert server.stop(signal.SIGTERM) == 0
        assert answers[0].status_code == 201
        assert answers[0].json()["step"] == 100_000


def test_a_port_in_use_is_named_before_anything_is_loaded(tmp_path, settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {f"CARRY_{k.upper()}": str(v) for k, v in settings.items()}
        environment["CARRY_PORT"] = str(taken.getsockname()[1])
        run = subprocess.run(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert run.returncode != 0
    assert "cannot listen on CARRY_HOST" in run.stderr
    assert "model loaded" not in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"port": "http"}, "CARRY_PORT"),
        ({"prot": "8000"}, "unknown setting CARRY_PROT; did you mean CARRY_PORT?"),
        ({"store": "mysql://x"}, "CARRY_STORE"),
        ({"models": "/nowhere"}, "CARRY_MODELS"),
        ({"provider": "cuda"}, "CARRY_PROVIDER"),
        ({"durability": "none"}, "CARRY_DURABILITY"),
        ({"store": "sqlite:////nowhere/at/all.db"}, "CARRY_STORE"),
    ],
)
def test_a_bad_setting_stops_the_start_and_is_named(tmp_path, settings, setting, told):
    with pytest.raises(AssertionError) as caught:  # noqa: SIM117 -- the error comes from inside
        with running_server(tmp_path, **settings | setting):
            pass
    assert told in str(caught.value)
    assert "Traceback" not in (tmp_path / "server.log").read_text()
