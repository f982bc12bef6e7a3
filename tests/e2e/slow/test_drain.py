"""SIGTERM under load: what was accepted is answered, and another process goes on exactly."""

import asyncio

from tests.e2e.fault_run import run_clients
from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster

NUM_CLIENTS, NUM_STEPS, NUM_STOPS = 24, 120, 4


async def test_sigterm_under_load_answers_what_was_accepted_and_hands_the_rest_over(tmp_path):
    models = tmp_path / "models"
    write_forecaster(models)
    codes = []

    with running_server(tmp_path, models=models, store=f"sqlite:///{tmp_path}/carry.db") as server:

        async def stop_and_start(progress, rng):
            for count in sorted(rng.sample(range(progress.total), NUM_STOPS)):
                await progress.reaches(count)
                codes.append(await asyncio.to_thread(server.stop))
                server.start()
                await asyncio.to_thread(server.wait_ready)

        clients = await run_clients(
            [server.url],
            models,
            NUM_CLIENTS,
            NUM_STEPS,
            stop_and_start,
            duplicates=0.0,
            timeout_s=30,  # a disk may be slow: nobody gives up what is applied
        )
    assert codes == [0] * NUM_STOPS
    assert sum(client.num_retries for client in clients) > 0
    # A request that was applied and not answered would be answered by its repetition.
    assert sum(client.num_replays for client in clients) == 0
