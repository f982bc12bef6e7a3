"""A hundred clients that stream, lose their sockets in the middle, and come back."""

import asyncio
import random

import httpx
import numpy as np
import orjson
import pytest

from service.engine.models.registry import load_registry
from tests.e2e.lean_websocket import open_socket
from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster

NUM_CLIENTS = 100
NUM_STEPS = 1000
RING = 16
CUT_AFTER = (20, 400)
"""Answers after which a client cuts its socket, at random."""


@pytest.fixture
def settings(tmp_path):
    write_forecaster(tmp_path / "models", uses_time=False)
    return {"models": tmp_path / "models", "store": "memory://"}


async def stream(server, name, rows, seed):
    """Send every row; what each answer forecasts, and how many came from the ring."""
    chance, forecasts, num_replayed = random.Random(seed), [], 0
    while len(forecasts) < len(rows):
        socket = await open_socket(server.port, f"/v1/sessions/{name}/stream")
        hello = orjson.loads(await socket.recv())
        assert len(forecasts) <= hello["step"] <= len(forecasts) + RING
        sent = len(forecasts)
        for _ in range(chance.randint(*CUT_AFTER)):
            while sent < min(len(rows), len(forecasts) + RING):
                socket.send(b'{"step":%d,"observations":[%s]}' % (sent, rows[sent]))
                sent += 1
            told = orjson.loads(await socket.recv())
            assert told["step"] == len(forecasts) + 1, told
            prediction = told["prediction"]
            forecasts.append([prediction["mean"], *prediction["quantiles"].values()])
            num_replayed += told.get("replayed", False)
            if len(forecasts) == len(rows):
                break
        socket.abort()
    return forecasts, num_replayed


async def stream_all(server, values):
    async with httpx.AsyncClient(base_url=server.url) as client:
        for place in range(NUM_CLIENTS):
            body = {"model": "load", "session": f"s{place}", "replay": RING}
            (await client.post("/v1/sessions", json=body)).raise_for_status()
        rows = [[orjson.dumps(row) for row in each] for each in values.tolist()]
        clients = (stream(server, f"s{n}", rows[n], n) for n in range(NUM_CLIENTS))
        told = await asyncio.gather(*clients)
        steps = [
            (await client.get(f"/v1/sessions/s{n}")).json()["step"] for n in range(NUM_CLIENTS)
        ]
    return told, steps


def whole_sequences(folder, values):
    """Mean and quantiles, `[B, T, 1 + Q, K]`, of the graph, given each sequence at once."""
    model = load_registry(folder, "cpu", 1).get("load")
    states = np.frombuffer(model.layout.initial_row, np.float32)
    fed = {
        "x": values,
        "length": np.full(len(values), values.shape[1]),
        "state": np.tile(states, (len(values), 1)),
    }
    found = model.runner.call(fed)
    return np.concatenate([found["mean"][..., None], found["quantiles"]], -1).swapaxes(2, 3)


@pytest.mark.timeout(600)  # a hundred thousand steps, on whatever else the machine does
def test_clients_that_lose_their_sockets_get_every_answer_exactly_once(tmp_path, settings):
    values = np.random.default_rng(5).normal(size=(NUM_CLIENTS, NUM_STEPS, 2)).astype(np.float32)
    with running_server(tmp_path, **settings) as server:
        told, steps = asyncio.run(stream_all(server, values))
        assert server.stop() == 0
    assert steps == [NUM_STEPS] * NUM_CLIENTS
    assert sum(num_replayed for _, num_replayed in told) > NUM_CLIENTS
    forecasts = np.array([answers for answers, _ in told], np.float32)
    np.testing.assert_allclose(forecasts, whole_sequences(tmp_path / "models", values), atol=1e-4)
