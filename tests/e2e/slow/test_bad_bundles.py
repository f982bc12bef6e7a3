"""A graph that never ends, in the real service: others are served, and SIGTERM ends the process."""

import httpx
import pytest

from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster
from tests.fakes.odd_bundles import ENDLESS, write_looping_classifier

OPEN = {"model": "load", "session": "s", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}
LONG_TEXT = "a wonderful film and not at all a waste of time, really wonderful it is"


@pytest.fixture
def models(tmp_path):
    write_forecaster(tmp_path / "models")
    return tmp_path / "models"


def states(client):
    index = client.post("/v2/repository/index").json()
    return {each["name"]: each["state"] for each in index}


def test_a_bundle_that_never_ends_costs_nobody_else_anything(models, tmp_path):
    write_looping_classifier(models, ENDLESS)
    settings = {"models": models, "store": "memory://", "shutdown_grace_s": 1}
    with running_server(tmp_path, **settings) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            assert states(client) == {"load": "READY", "mood": "LOADING"}
            assert client.post("/v1/sessions", json=OPEN).status_code == 201
            assert client.post("/v1/sessions/s/steps", json=STEP).json()["step"] == 1
            write_forecaster(models, version="2", seed=2)
            assert client.post("/v2/repository/models/load/load").status_code == 200
            assert client.post("/v2/repository/models/mood/unload").status_code == 200
            assert states(client)["mood"] == "UNAVAILABLE"
        assert server.stop() == 0


@pytest.mark.parametrize("unloads", [True, False])
def test_a_step_that_never_ends_keeps_the_service_from_nothing(models, tmp_path, unloads):
    write_looping_classifier(models, ENDLESS, after_steps=12)
    settings = {"models": models, "store": "memory://", "shutdown_grace_s": 1}
    settings |= {"request_timeout_s": 2, "unload_grace_s": 0}
    with running_server(tmp_path, **settings) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            opening = {"model": "mood", "session": "m"}
            assert client.post("/v1/sessions", json=opening).status_code == 201
            answer = client.post("/v1/sessions/m/steps", json={"text": LONG_TEXT})
            assert answer.status_code == 503
            assert client.post("/v1/sessions", json=OPEN).status_code == 201
            assert client.post("/v1/sessions/s/steps", json=STEP).json()["step"] == 1
            if unloads:
                assert client.post("/v2/repository/models/mood/unload").status_code == 200
        assert server.stop() == 0
