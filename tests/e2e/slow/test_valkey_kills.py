"""Two replicas that share a Valkey server, behind a proxy that knows nothing of sessions."""

import asyncio
import signal
from contextlib import ExitStack

import pytest

from tests.e2e.fault_run import run_clients
from tests.e2e.round_robin import round_robin
from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster
from tests.stores.valkey import SAFE, running_valkey

NUM_CLIENTS = 64
NUM_STEPS = 500
NUM_KILLS = 20


def killer(servers):
    """Chaos: `kill -9` of one replica or the other, at random points of the clients' way."""

    async def kill(progress, rng):
        for count in sorted(rng.sample(range(progress.total), NUM_KILLS)):
            await progress.reaches(count)
            await asyncio.to_thread(rng.choice(servers).restart, signal.SIGKILL)

    return kill


@pytest.mark.timeout(600)  # 20 starts of a server beside 32,000 requests, each sent on twice
async def test_clients_of_replicas_that_are_killed_lose_nothing_and_repeat_nothing(tmp_path):
    models = tmp_path / "models"
    write_forecaster(models)
    with ExitStack() as stack:
        valkey = stack.enter_context(running_valkey(**SAFE))
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            settings = {"models": models, "store": valkey.url}
            servers.append(stack.enter_context(running_server(tmp_path / name, **settings)))
        async with round_robin([server.url for server in servers]) as url:
            clients = await run_clients([url], models, NUM_CLIENTS, NUM_STEPS, killer(servers))
        assert sum(client.num_retries for client in clients) > NUM_KILLS
        assert sum(client.num_replays for client in clients) > 0
        assert [server.stop() for server in servers] == [0, 0]
