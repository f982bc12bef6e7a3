"""What a fail-over can lose is shown: sessions go back, clients send again, and all ends exact."""

import signal
from contextlib import ExitStack

from tests.e2e.fault_run import run_clients
from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster
from tests.stores.valkey import running_cluster, running_valkey, wait_until

NUM_CLIENTS = 8
NUM_STEPS = 60
TOTAL = NUM_CLIENTS * NUM_STEPS


def sentinel_of(primary):
    return (
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 1000\n"
        "sentinel failover-timeout main 3000\n"
    )


def has_a_replica(primary):
    """Whether a replica has everything that was written so far."""
    told = primary.ask("INFO", "replication")
    replica = told.get("slave0")
    return (
        replica is not None
        and replica["state"] == "online"
        and replica["offset"] == told["master_repl_offset"]
    )


async def test_sentinels_promote_a_replica_that_lacks_the_last_steps_and_they_are_sent_again(
    tmp_path,
):
    models = tmp_path / "models"
    write_forecaster(models)
    with ExitStack() as stack:
        primary = stack.enter_context(running_valkey())
        replica = stack.enter_context(running_valkey(replicaof=f"127.0.0.1 {primary.port}"))
        wait_until(lambda: has_a_replica(primary))
        sentinel = stack.enter_context(running_valkey(sentinel=sentinel_of(primary)))
        wait_until(lambda: sentinel.ask("SENTINEL", "REPLICAS", "main"))

        async def chaos(progress, _):
            await progress.reaches(TOTAL // 3)
            # The replica stops in the middle, and nothing more is sent to it.
            replica.signal(signal.SIGSTOP)
            primary.ask("CLIENT", "KILL", "TYPE", "replica")
            await progress.reaches(TOTAL // 3 + 5 * NUM_CLIENTS)
            primary.kill()
            replica.signal(signal.SIGCONT)

        server = stack.enter_context(
            running_server(
                tmp_path,
                models=models,
                store=f"redis+sentinel://127.0.0.1:{sentinel.port}/main",
                store_timeout_s=1,
            )
        )
        clients = await run_clients(
            [server.url], models, NUM_CLIENTS, NUM_STEPS, chaos, may_lose=True
        )
        assert sum(client.num_gone_back for client in clients) >= NUM_CLIENTS
        assert replica.ask("INFO", "replication")["role"] == "master"


async def test_a_cluster_whose_primary_dies_goes_on_with_its_replica(tmp_path):
    models = tmp_path / "models"
    write_forecaster(models)
    with running_cluster(num_replicas=1) as nodes, ExitStack() as stack:
        wait_until(lambda: has_a_replica(nodes[0]))

        async def chaos(progress, _):
            await progress.reaches(TOTAL // 2)
            nodes[0].kill()

        server = stack.enter_context(
            running_server(
                tmp_path,
                models=models,
                store=f"redis+cluster://127.0.0.1:{nodes[1].port},127.0.0.1:{nodes[0].port}",
                store_timeout_s=1,
            )
        )
        clients = await run_clients(
            [server.url], models, NUM_CLIENTS, NUM_STEPS, chaos, may_lose=True, timeout_s=1
        )
        # No fail-over is that quick.
        assert sum(client.num_retries for client in clients) > 0
        assert nodes[-1].ask("INFO", "replication")["role"] == "master"
