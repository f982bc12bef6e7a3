"""The file of the store is removed, replaced or truncated under a service that is stepped.

`/readyz` and steps are 503 with the reason, and no step that was sent after the change is answered
with anything else: there is none that could be lost.
"""

import asyncio
import shutil
import time

import httpx
import pytest

from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster
from tests.stores.file_changes import (
    remove,
    remove_folder,
    replace_by_a_copy,
    truncate,
    truncate_half,
)

NUM_CLIENTS = 8
NUM_STEPS_BEFORE = 40
WITHIN_S = 1.0


def replace_folder(path):
    copy = path.parent.with_name("copy")
    shutil.copytree(path.parent, copy)
    path.parent.rename(path.parent.with_name("elsewhere"))
    copy.rename(path.parent)


FILE, LOG = "", "-wal"
CHANGES = [
    (remove, FILE, "database file was removed"),
    (replace_by_a_copy, FILE, "database file was replaced"),
    (truncate, FILE, "database file was truncated"),
    (remove, LOG, "write-ahead log was removed"),
    (replace_by_a_copy, LOG, "write-ahead log was replaced"),
    (truncate, LOG, "write-ahead log was truncated"),
    (truncate_half, LOG, "write-ahead log was truncated"),
    (remove_folder, FILE, "folder was removed"),
    (replace_folder, FILE, "database file was replaced"),
]


class Client:
    """Steps its session without a pause until it is refused, and remembers what it was told."""

    def __init__(self, url, name):
        self._url = url
        self._name = name
        self.num_steps = 0
        self.last_sent = 0.0
        self.refusals = []
        self.is_under_way = asyncio.Event()

    async def run(self):
        async with httpx.AsyncClient(base_url=self._url, timeout=30) as client:
            created = {"model": "load", "session": self._name, "start": "2016-08-22"}
            (await client.post("/v1/sessions", json=created)).raise_for_status()
            while True:
                sent = time.monotonic()
                body = {"step": self.num_steps, "observations": [[1.0, 2.0]]}
                answer = await client.post(f"/v1/sessions/{self._name}/steps", json=body)
                if answer.status_code != 200:
                    self.refusals.append((time.monotonic(), answer))
                    return
                self.num_steps, self.last_sent = self.num_steps + 1, sent
                if self.num_steps == NUM_STEPS_BEFORE:
                    self.is_under_way.set()


def wait_for_all(server):
    """Workers that start later open what they find."""
    while '"ready"' not in server.log.read_text():
        time.sleep(0.05)


async def readiness(url):
    """Over a connection of its own, so that any worker may get it."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        return await client.get("/readyz")


@pytest.mark.parametrize(
    ("workers", "durability"), [(1, "power"), (1, "process"), (2, "power")], ids=str
)
@pytest.mark.parametrize(
    ("change", "which", "reason"), CHANGES, ids=[f"{c.__name__}{w}" for c, w, _ in CHANGES]
)
async def test_a_change_under_load_is_told_by_every_worker_and_nothing_is_acknowledged_behind_it(
    tmp_path, change, which, reason, durability, workers
):
    write_forecaster(tmp_path / "models")
    (tmp_path / "var").mkdir()
    path = tmp_path / "var" / "carry.db"
    settings = {
        "models": tmp_path / "models", "store": f"sqlite:///{path}", "durability": durability,
        "workers": workers,
    }  # fmt: skip
    running = running_server(tmp_path, **settings)
    server = await asyncio.to_thread(running.__enter__)
    try:
        await asyncio.to_thread(wait_for_all, server)
        clients = [Client(server.url, f"s{place}") for place in range(NUM_CLIENTS)]
        async with asyncio.TaskGroup() as stepping:
            for client in clients:
                stepping.create_task(client.run())
            async with asyncio.timeout(60):
                for client in clients:
                    await client.is_under_way.wait()
            change(path.with_name(path.name + which))
            changed = time.monotonic()
        ready = [await readiness(server.url) for _ in range(8)]
        for client in clients:
            [(when, answer)] = client.refusals
            assert answer.status_code == 503
            assert reason in answer.json()["detail"], answer.text
            assert client.last_sent <= changed
            # By the loop's clock; a busy machine answers late, and still refuses.
            assert when - changed < WITHIN_S + 5
        for answer in ready:
            assert answer.status_code == 503
            assert reason in answer.json()["detail"], answer.text
        if (change, which) == (remove, LOG):  # what it held was saved into the file at once
            await asyncio.to_thread(server.restart, 9)
            async with httpx.AsyncClient(base_url=server.url) as asking:
                for place, client in enumerate(clients):
                    found = (await asking.get(f"/v1/sessions/s{place}")).json()
                    assert found["step"] >= client.num_steps
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
