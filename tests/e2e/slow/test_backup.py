"""`python -m service backup` while clients step: what is restored holds all that was answered."""

import asyncio
import random
import subprocess
import sys

from tests.e2e.careful_client import CarefulClient
from tests.e2e.fault_run import new_seed, reference_steps, run_clients
from tests.e2e.server import ROOT, running_server
from tests.fakes.bundles import write_forecaster

NUM_CLIENTS, NUM_STEPS = 16, 60


def service(*arguments):
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


async def test_a_backup_under_load_holds_every_answered_step_and_goes_on(tmp_path):
    models, seed = tmp_path / "models", new_seed()
    write_forecaster(models)
    store, copy = f"sqlite:///{tmp_path}/carry.db", tmp_path / "copy.db"
    answered, runs = {}, []

    async def back_up_in_the_middle(progress, rng):
        await progress.reaches(progress.total // 4)
        answered.update(progress.counts)
        runs.append(await asyncio.to_thread(service, "backup", store, copy))

    with running_server(tmp_path, models=models, store=store) as server:
        await run_clients(
            [server.url], models, NUM_CLIENTS, NUM_STEPS, back_up_in_the_middle, seed=seed
        )
        again = service("backup", store, copy)
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == f"{copy}: {NUM_CLIENTS} sessions, checked\n"
    assert again.returncode != 0
    assert "exists, and a backup does not overwrite files" in again.stderr
    assert "Traceback" not in again.stderr

    checked = service("check-store", f"sqlite:///{copy}")
    assert (checked.returncode, checked.stdout.count("whole")) == (0, 1), checked.stdout
    steps = reference_steps(models, NUM_CLIENTS, NUM_STEPS, seed)
    with running_server(tmp_path, models=models, store=f"sqlite:///{copy}") as server:
        for place, of_client in enumerate(steps):
            client = CarefulClient([server.url], f"client-{place}", of_client, random.Random(seed))
            client.step = await client.stored_step()
            assert client.step >= answered[client.session] > 0, f"TEST_SEED={seed}"
            await client.run(lambda _: None)


def test_a_damaged_file_is_found_by_the_command_and_by_the_start(tmp_path):
    write_forecaster(tmp_path / "models")
    store = f"sqlite:///{tmp_path}/carry.db"
    with running_server(tmp_path, models=tmp_path / "models", store=store) as server:
        assert server.stop() == 0
    with (tmp_path / "carry.db").open("r+b") as file:
        file.write(b"damaged header!!")
    checked = service("check-store", store)
    assert checked.returncode == 1
    assert "file is not a database" in checked.stdout
    assert "Replace a damaged file by\na backup" in checked.stdout
    for told in (service("check-store", "memory://"), service("backup", store, tmp_path / "b.db")):
        assert told.returncode != 0
        assert told.stderr.startswith("carry: ")
        assert "Traceback" not in told.stderr
