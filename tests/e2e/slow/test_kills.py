"""A server that is killed again and again, under load, with its sessions in a file."""

import pytest

from tests.e2e.fault_run import kill_at_random, run_clients
from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster

NUM_CLIENTS = 64
NUM_STEPS = 500
NUM_KILLS = 20


@pytest.mark.timeout(600)  # 20 starts of a server beside 32,000 requests
async def test_clients_of_a_server_that_is_killed_lose_nothing_and_repeat_nothing(tmp_path):
    models = tmp_path / "models"
    write_forecaster(models)
    store = f"sqlite:///{tmp_path}/carry.db"
    with running_server(tmp_path, models=models, store=store) as server:
        clients = await run_clients(
            [server.url], models, NUM_CLIENTS, NUM_STEPS, kill_at_random(server, NUM_KILLS)
        )
        assert sum(client.num_retries for client in clients) > NUM_CLIENTS
        assert sum(client.num_replays for client in clients) > 0
        assert server.stop() == 0
