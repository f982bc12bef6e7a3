"""Models come and go in real processes, under traffic: all agree, nothing fails or stays."""

import asyncio
import os
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.e2e.server import running_server
from tests.e2e.slow.test_workers import wait_for_all, workers_of
from tests.fakes.bundles import write_classifier, write_forecaster
from tests.stores.valkey import SAFE, running_valkey

OPEN = {"model": "load", "session": "s", "start": "2016-08-22"}
ROWS = {"observations": [[1, 2]]}
PREDICT = {"instances": [{"start": "2016-08-22", **ROWS}]}
NUM_ROUNDS = int(os.environ.get("ROUNDS", "100"))
AT_MOST_S = 60
PAUSE_S = 0.03


@pytest.fixture
def models(tmp_path):
    write_forecaster(tmp_path / "models")
    write_classifier(tmp_path / "models")
    return tmp_path / "models"


def change(url, what, name, version=None):
    body = {"parameters": {"version": version}} if version else {}
    answer = httpx.post(f"{url}/v2/repository/models/{name}/{what}", json=body, timeout=AT_MOST_S)
    assert answer.status_code == 200, answer.text


def states(url):
    """Over a connection of its own, so that any worker may get it."""
    index = httpx.post(f"{url}/v2/repository/index", timeout=AT_MOST_S).json()
    return {f"{each['name']}/{each['version']}": each["state"] for each in index}


def wait_until(is_so):
    deadline = time.monotonic() + AT_MOST_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_replicas_on_one_valkey_agree(tmp_path, models):
    shared = {"models": models, "models_poll_s": 0.2, "unload_grace_s": 0}
    with ExitStack() as stack:
        store = stack.enter_context(running_valkey(**SAFE)).url
        urls = []
        for name in "ab":
            (tmp_path / name).mkdir()
            server = running_server(tmp_path / name, **shared, store=store)
            urls.append(stack.enter_context(server).url)
        httpx.post(f"{urls[0]}/v1/sessions", json=OPEN).raise_for_status()
        change(urls[0], "unload", "load")
        wait_until(lambda: all(states(url)["load/1"] == "UNAVAILABLE" for url in urls))
        for url in urls:
            told = httpx.post(f"{url}/v1/sessions/s/steps", json=ROWS)
            assert (told.status_code, told.json()["type"]) == (409, "urn:carry:version-gone")
        change(urls[1], "load", "load")
        wait_until(lambda: all(states(url)["load/1"] == "READY" for url in urls))
        write_forecaster(models, version="2", seed=2)
        wait_until(lambda: all(states(url).get("load/2") == "READY" for url in urls))
        for count, url in enumerate(urls):
            told = httpx.post(f"{url}/v1/sessions/s/steps", json=ROWS | {"step": count})
            assert told.json()["step"] == count + 1
            told = httpx.post(f"{url}/v1/sessions", json=OPEN | {"session": str(count)})
            assert told.json()["version"] == "2"


def test_workers_on_one_file_agree_and_one_that_is_new_follows(tmp_path, models):
    settings = {"models": models, "workers": 2, "models_poll_s": 0.2, "unload_grace_s": 0}
    store = f"sqlite:///{tmp_path}/carry.db"
    with running_server(tmp_path, **settings, store=store) as server:
        wait_for_all(server)

        def all_say(state):
            return all(states(server.url)["load/1"] == state for _ in range(12))

        change(server.url, "unload", "load")
        wait_until(lambda: all_say("UNAVAILABLE"))
        gauge = 'carry_model_loaded{model="load",provider="cpu",version="1"} 0.0'
        assert gauge in httpx.get(f"{server.url}/metrics", timeout=AT_MOST_S).text
        before = workers_of(server)
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(now := workers_of(server)) == 2 and before[0] not in now)
        wait_until(lambda: server.log.read_text().count('"serving"') == 3)
        assert all_say("UNAVAILABLE")
        change(server.url, "load", "load")
        wait_until(lambda: all_say("READY"))
        assert server.stop() == 0


class Traffic:
    """Clients that never stop, each of which must be answered well each time.

    They pause for as long as a round may well take to do something else.
    """

    def __init__(self, client):
        self.client = client
        self.is_over = False
        self.version = "1"
        self.versions = {}
        self.counts = {}
        self.num_requests = 0

    async def post(self, path, body):
        await asyncio.sleep(PAUSE_S)
        answer = await self.client.post(path, json=body)
        assert answer.is_success, (path, body, answer.text)
        self.num_requests += 1
        return answer.json()

    async def step_load(self, name):
        """Steps a session, and hands it on to the newest version when that is told."""
        at = f"/v1/sessions/{name}"
        told = await self.post("/v1/sessions", OPEN | {"session": name})
        self.versions[name], count = told["version"], 0
        while not self.is_over:
            if self.versions[name] != self.version:
                told = await self.post(f"{at}/upgrade", {"version": self.version, "force": True})
                self.versions[name] = told["version"]
            told = await self.post(f"{at}/steps", ROWS | {"step": count})
            count += 1
            assert told["step"] == count
        self.counts[name] = count

    async def step_mood(self):
        await self.post("/v1/sessions", {"model": "mood", "session": "mood"})
        count = 0
        while not self.is_over:
            told = await self.post("/v1/sessions/mood/steps", {"text": "so ", "step": count})
            count += 1
            assert told["step"] == count
        self.counts["mood"] = count

    async def predict(self):
        while not self.is_over:
            told = await self.post("/v1/models/load/predict", PREDICT)
            assert int(told["version"]) >= int(self.version) - 1

    async def open_and_leave(self):
        number = 0
        while not self.is_over:
            told = await self.post("/v1/sessions", OPEN | {"session": f"guest-{number}"})
            assert int(told["version"]) >= int(self.version) - 1
            assert (await self.client.delete(f"/v1/sessions/guest-{number}")).status_code == 204
            number += 1


class Holdings:
    """What a process holds."""

    def __init__(self, pid):
        status = Path(f"/proc/{pid}/status").read_text().split()
        self.num_threads = int(status[status.index("Threads:") + 1])
        self.rss_mib = int(status[status.index("VmRSS:") + 1]) / 1024
        self.num_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))

    def __repr__(self):
        return f"{self.num_threads} threads, {self.num_files} files, {self.rss_mib:.1f} MiB"


@pytest.mark.timeout(600)
async def test_a_hundred_upgrades_under_traffic_fail_nothing_and_leave_nothing(tmp_path, models):
    """Each round: a new version is loaded, the old one unloaded with sessions on it, its folder
    removed; and another model is unloaded and loaded again."""
    settings = {"models": models, "models_poll_s": 0, "unload_grace_s": 5}
    store = f"sqlite:///{tmp_path}/carry.db"
    held = {}
    with running_server(tmp_path, **settings, store=store, durability="process") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=AT_MOST_S) as client:
            traffic = Traffic(client)
            names = [f"s{number}" for number in range(4)]
            clients = [traffic.step_load(name) for name in names]
            clients += [traffic.step_mood(), traffic.predict(), traffic.open_and_leave()]
            tasks = [asyncio.create_task(each) for each in clients]

            async def until(is_so):
                async with asyncio.timeout(AT_MOST_S):
                    while not is_so():
                        for task in tasks:
                            if task.done():
                                task.result()
                        await asyncio.sleep(0.005)

            async def change(what, name, version=None):
                body = {"parameters": {"version": version}} if version else {}
                url = f"/v2/repository/models/{name}/{what}"
                answer = await client.post(url, json=body)
                assert answer.status_code == 200, answer.text

            async def is_settled():
                index = await traffic.post("/v2/repository/index", {})
                return all(each["state"] != "UNLOADING" for each in index)

            await until(lambda: len(traffic.versions) == len(names))
            for number in range(1, NUM_ROUNDS + 1):
                old, new = str(number), str(number + 1)
                write_forecaster(models, version=new, seed=number + 1)
                await change("load", "load")
                await change("unload", "load", old)
                await change("unload", "mood")
                await change("load", "mood")
                traffic.version = new
                await until(lambda new=new: set(traffic.versions.values()) == {new})
                shutil.rmtree(models / "load" / old)
                if number in (NUM_ROUNDS // 5, NUM_ROUNDS):
                    while not await is_settled():  # noqa: ASYNC110 -- nobody announces it
                        await asyncio.sleep(0.05)
                    held[number] = Holdings(server.process.pid)
            traffic.is_over = True
            await asyncio.gather(*tasks)
            for name, count in traffic.counts.items():
                assert (await client.get(f"/v1/sessions/{name}")).json()["step"] == count > 0
            text = (await client.get("/metrics")).text
        assert text.count("\ncarry_model_loaded{") == 2
        assert server.stop() == 0
    first, last = held.values()
    print(f"{traffic.num_requests} requests; after {list(held)} rounds: {first}; {last}")
    # Threads that wait for work, and connections, come and go; a leak is one for each round.
    assert last.num_threads < first.num_threads + 10
    assert last.num_files < first.num_files + 10
    assert last.rss_mib < first.rss_mib + 12
