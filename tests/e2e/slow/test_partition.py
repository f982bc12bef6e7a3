"""Two replicas and Valkey on hosts of their own, and a network that comes apart between them.

Whatever way it comes apart: no step is lost or applied twice, the replica that cannot keep anything
says so within its deadline, and when the network is whole again it serves by itself.
"""

import asyncio
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.fault_run import run_clients
from tests.e2e.network import network_of
from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster
from tests.stores.valkey import SAFE, Valkey

STORE_TIMEOUT_S = 0.5
DEADLINE_S = 2.0
ANSWERS_S = DEADLINE_S + 6.0
"""With slack for a machine that does other things: an answer comes at all, and in time."""
WORKS_AGAIN_S = 20.0


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """The network, and the addresses of two replicas, on hosts `here` and `there`."""
    folder = tmp_path_factory.mktemp("partition")
    write_forecaster(folder / "models")
    with ExitStack() as running:
        network = running.enter_context(network_of("store", "here", "there"))
        address = network.address("store")
        valkey = Valkey(**SAFE, host=address, prefix=network.on("store"), protected_mode="no")
        running.callback(valkey.close)
        urls = []
        for host in ("here", "there"):
            (folder / host).mkdir()
            server = running_server(
                folder / host,
                prefix=network.on(host),
                host=network.address(host),
                models=folder / "models",
                store=valkey.url,
                store_timeout_s=STORE_TIMEOUT_S,
                request_timeout_s=DEADLINE_S,
            )
            urls.append(running.enter_context(server).url)
        yield network, urls, folder / "models"


def cut_in_silence(network):
    network.cut("here", "store")


def refuse_loudly(network):
    network.route("here", "unreachable", to="store")


def lose_the_answers(network):
    """The worst: what `here` writes arrives and is kept, and it never hears so."""
    network.route("store", "blackhole", to="here")


def unplug(network):
    network.unplug("here")


@pytest.mark.parametrize("come_apart", [cut_in_silence, refuse_loudly, lose_the_answers, unplug])
async def test_a_network_that_comes_apart_loses_and_doubles_no_step(apart, come_apart):
    network, (here, there), models = apart
    told = []

    async def chaos(progress, rng):
        await progress.everyone_reaches(rng.randrange(1, 10))
        async with httpx.AsyncClient(timeout=ANSWERS_S) as client:
            try:
                come_apart(network)
                if come_apart is not unplug:
                    told.append(await answer_of(client, here, 503, ANSWERS_S))
                await answer_of(client, there, 200, ANSWERS_S)
                await progress.everyone_reaches(30)  # by the replica that is left
            finally:
                network.mend()
            told.append(await answer_of(client, here, 200, WORKS_AGAIN_S))
            # Now all by the one that was away, whose memory holds what is past.
            try:
                network.route("there", "unreachable", to="store")
                await progress.everyone_reaches(50)
            finally:
                network.mend()

    name = come_apart.__name__.replace("_", "-")
    clients = await run_clients(
        [here, there], models, 16, 60, chaos, name=name, timeout_s=DEADLINE_S + 1
    )
    assert sum(client.num_retries for client in clients) > 0
    assert told[-1]["status"] == "ready"
    assert all("store" in each["detail"].lower() for each in told[:-1]), told


async def answer_of(client, url, status, within_s):
    """What `/readyz` says as soon as it answers `status`."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                answer = await client.get(url + "/readyz")
                if answer.status_code == status:
                    return answer.json()
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)  # as a probe waits before it asks again
