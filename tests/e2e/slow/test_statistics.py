"""Statistics of `/v2` are of the whole service, whichever of its workers is asked."""

import os
import signal
import time
from pathlib import Path

import httpx

from tests.e2e.server import running_server
from tests.fakes.bundles import write_tagger

ROWS = {"name": "x", "shape": [3, 1, 2], "datatype": "FP32", "data": [0.5] * 6}
NUM_REQUESTS = 40


def wait_for_all(server):
    while '"ready"' not in server.log.read_text():
        time.sleep(0.05)


def workers_of(server):
    """Process ids of the workers: the children that load models."""
    pid, found = server.process.pid, []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            command = Path(f"/proc/{child}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if "spawn_main" in command:
            found.append(int(child))
    return found


def infer(server, **body):
    """Over a connection of its own, so that any worker may get it."""
    body = {"inputs": [ROWS]} | body
    return httpx.post(f"{server.url}/v2/models/phase/infer", json=body, timeout=60)


def counts(server):
    [stats] = httpx.get(f"{server.url}/v2/models/phase/stats", timeout=60).json()["model_stats"]
    timed = stats["inference_stats"]
    figures = {f"{name}.{part}": timed[name][part] for name in timed for part in ("count", "ns")}
    names = ("inference_count", "execution_count", "last_inference")
    return figures | {name: stats[name] for name in names}


def live(server):
    return httpx.get(f"{server.url}/v1/models/phase", timeout=60).json()["live"]


def test_statistics_of_two_workers_are_summed_and_never_fall(tmp_path):
    write_tagger(tmp_path / "models")
    settings = {"models": tmp_path / "models", "workers": 2}
    settings["store"] = f"sqlite:///{tmp_path}/carry.db"
    with running_server(tmp_path, **settings) as server:
        wait_for_all(server)
        seen = counts(server)
        for number in range(1, NUM_REQUESTS + 1):
            assert infer(server).status_code == 200
            assert infer(server, outputs=[{"name": "none"}]).status_code == 400
            for _ in range(3):
                now = counts(server)
                assert all(now[name] >= seen[name] for name in seen), (seen, now)
                seen = now
            assert seen["success.count"] == seen["fail.count"] == number
            assert seen["inference_count"] == 3 * number
            assert live(server)["predictions"] == 3 * number
        assert 1 <= seen["execution_count"] <= NUM_REQUESTS
        assert seen["success.ns"] >= seen["compute_infer.ns"] > 0
        first = workers_of(server)[0]
        os.kill(first, signal.SIGKILL)
        while len(now := workers_of(server)) < 2 or first in now:
            time.sleep(0.05)
        after = counts(server)
        assert all(after[name] >= seen[name] for name in seen)
        assert infer(server).status_code == 200
        assert counts(server)["success.count"] == NUM_REQUESTS + 1
        assert server.stop() == 0
