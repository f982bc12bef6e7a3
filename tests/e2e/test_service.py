"""The service as a user runs it: from an empty folder, killed, restarted, and over a WebSocket."""

import signal

import httpx
import numpy as np
import pytest

from service.client import Client
from tests.e2e.fault_run import kill_at_random, run_clients
from tests.e2e.server import running_server
from tests.engine.support import rows
from tests.fakes.bundles import write_forecaster
from tests.stores.valkey import wait_until

CREATE = {"model": "load", "session": "s", "start": "2016-08-22", "replay": 2}


@pytest.fixture
def settings(tmp_path):
    write_forecaster(tmp_path / "models")
    return {"models": tmp_path / "models", "store": f"sqlite:///{tmp_path}/carry.db"}


def observations(num_rows):
    return [[None if value != value else float(value) for value in row] for row in rows(num_rows)]


def test_an_empty_folder_is_served_and_watched(tmp_path):
    (tmp_path / "models").mkdir()
    with (
        running_server(
            tmp_path,
            ready="/healthz",
            models=tmp_path / "models",
            models_poll_s=0.1,
            store=f"sqlite:///{tmp_path}/carry.db",
        ) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert client.get("/readyz").status_code == 503
        assert client.get("/v1/models").json()["models"] == []
        write_forecaster(tmp_path / "models")
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/sessions", json=CREATE).status_code == 201
        assert server.stop() == 0


async def test_clients_lose_nothing_and_repeat_nothing_over_three_kills(tmp_path, settings):
    with running_server(tmp_path, **settings) as server:
        chaos = kill_at_random(server, 3)
        clients = await run_clients([server.url], settings["models"], 8, 60, chaos)
        assert sum(client.num_retries for client in clients) > 0
        assert server.stop() == 0


def test_a_stream_is_answered_as_the_whole_sequence(tmp_path, settings):
    values = observations(200)
    with running_server(tmp_path, **settings) as server, Client(server.url) as client:
        with client.open("load", start=CREATE["start"]).stream() as stream:
            replies = list(stream.replies([row] for row in values))
        whole = client.open("load", start=CREATE["start"]).step(values, emit="all")
        assert [reply.step for reply in replies] == list(range(1, 201))
        np.testing.assert_allclose(
            [reply.prediction["mean"] for reply in replies],
            [prediction["mean"] for prediction in whole.predictions],
            atol=1e-4,
        )


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_session_goes_on_after_a_restart(tmp_path, settings, durability):
    values = observations(10)
    with (
        running_server(tmp_path, **settings, durability=durability) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        client.post("/v1/sessions", json=CREATE).raise_for_status()
        for count, row in enumerate(values):
            body = {"step": count, "observations": [row]}
            answer = client.post("/v1/sessions/s/steps", json=body).raise_for_status()
            if count in (3, 6):
                server.restart(signal.SIGTERM if count == 3 else signal.SIGKILL)
                again = client.post("/v1/sessions/s/steps", json=body)
                assert again.headers["idempotent-replayed"] == "true"
                assert again.content == answer.content
        instance = {"start": CREATE["start"], "observations": values}
        body = {"instances": [instance]}
        whole = client.post("/v1/models/load/predict", json=body).json()["predictions"][0]
        streamed = answer.json()["prediction"]
        assert streamed["start"] == whole["start"]
        assert streamed["mean"] == pytest.approx(whole["mean"], abs=1e-4)
