"""Several processes behind one address: any of them may serve any session."""

import json
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.e2e.server import running_server
from tests.engine.support import rows
from tests.fakes.bundles import write_forecaster
from tests.stores.valkey import SAFE, running_valkey

CREATE = {"model": "load", "session": "s", "start": "2016-08-22"}
NUM_STEPS = 40
REPLACED = "worker ended, starting a replacement"


@pytest.fixture
def settings(request, tmp_path):
    write_forecaster(tmp_path / "models")
    shared = {"models": tmp_path / "models", "workers": 2}
    if getattr(request, "param", "sqlite") == "sqlite":
        yield shared | {"store": f"sqlite:///{tmp_path}/carry.db"}
        return
    with running_valkey(**SAFE) as server:
        yield shared | {"store": server.url}


def step(server, count, row):
    """Over a connection of its own, so that any worker may get it, also one that still starts."""
    body = {"step": count, "observations": [row]}
    return httpx.post(f"{server.url}/v1/sessions/s/steps", json=body, timeout=60)


def workers_of(server):
    """Process ids of the workers: the children that load models."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if "spawn_main" in command_of(child)]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return ""


def wait_for_all(server):
    while '"ready"' not in server.log.read_text():
        time.sleep(0.05)


def counted(server, name):
    """The sum over the series of one metric."""
    text = httpx.get(f"{server.url}/metrics").text
    return sum(float(n) for n in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def in_open_metrics(server, name):
    """The same, as OpenMetrics says it."""
    text = httpx.get(
        f"{server.url}/metrics", headers={"accept": "application/openmetrics-text"}
    ).text
    families = text_string_to_metric_families(text)
    return sum(s.value for family in families for s in family.samples if s.name == name)


@pytest.mark.parametrize("settings", ["sqlite", "valkey"], indirect=True)
def test_a_session_stepped_by_all_workers_ends_exact_and_is_counted(tmp_path, settings):
    values = [[0.0 if v != v else float(v) for v in row] for row in rows(NUM_STEPS)]
    with running_server(tmp_path, **settings) as server:
        wait_for_all(server)
        httpx.post(f"{server.url}/v1/sessions", json=CREATE).raise_for_status()
        for count, row in enumerate(values):
            answer = step(server, count, row).raise_for_status().json()
        body = {"instances": [{"start": CREATE["start"], "observations": values}]}
        whole = httpx.post(f"{server.url}/v1/models/load/predict", json=body).json()
        assert answer["step"] == NUM_STEPS
        assert answer["prediction"]["mean"] == pytest.approx(
            whole["predictions"][0]["mean"], abs=1e-4
        )
        assert counted(server, "carry_steps_total") == NUM_STEPS
        assert counted(server, "carry_model_loaded") == 1
        assert counted(server, "carry_build_info") == 1
        assert in_open_metrics(server, "carry_steps_total") == NUM_STEPS
        assert in_open_metrics(server, "carry_streams_open") == 0
        assert len(workers_of(server)) == 2
        assert server.stop() == 0
    assert server.log.read_text().count('"ready"') == 1


def test_a_killed_worker_is_replaced_and_the_session_goes_on(tmp_path, settings):
    with running_server(tmp_path, **settings) as server:
        wait_for_all(server)
        httpx.post(f"{server.url}/v1/sessions", json=CREATE).raise_for_status()
        for count in range(6):
            if count in (2, 4):
                before = workers_of(server)
                assert len(before) == 2
                os.kill(before[0], signal.SIGKILL)
                while len(now := workers_of(server)) < 2 or before[0] in now:
                    time.sleep(0.05)
            assert step(server, count, [1, 2]).raise_for_status().json()["step"] == count + 1
        assert counted(server, "carry_steps_total") == 6
        assert server.stop() == 0


def logged(server, event):
    """The lines of one event, parsed."""
    lines = server.log.read_text().splitlines()
    return [json.loads(line) for line in lines if f'"{event}"' in line]


def test_a_worker_that_is_killed_while_it_starts_is_replaced_and_the_service_goes_on(
    tmp_path, settings
):
    with running_server(tmp_path, **settings) as server:  # returns when the first worker is ready
        first = workers_of(server)[0]
        httpx.post(f"{server.url}/v1/sessions", json=CREATE).raise_for_status()
        # On a busy machine one may be ready before it is killed; its replacement starts again.
        while not any(not line["was_ready"] for line in logged(server, REPLACED)):
            assert server.process.poll() is None, server.log.read_text()
            for pid in workers_of(server):
                if pid != first:
                    os.kill(pid, signal.SIGKILL)
            found = httpx.get(f"{server.url}/v1/sessions/s").raise_for_status().json()
            assert found["step"] == 0
        wait_for_all(server)
        assert step(server, 0, [1, 2]).raise_for_status().json()["step"] == 1
        assert {line["reason"] for line in logged(server, REPLACED)} == {"it was killed by SIGKILL"}
        assert first in workers_of(server)
        assert server.stop() == 0


def test_a_log_truncated_while_the_second_worker_starts_is_told_and_the_service_answers(
    tmp_path, settings
):
    with running_server(tmp_path, **settings) as server:
        httpx.post(f"{server.url}/v1/sessions", json=CREATE).raise_for_status()
        os.truncate(tmp_path / "carry.db-wal", 0)
        [*_, newest] = workers_of(server)
        with suppress(ProcessLookupError):  # it may have opened the log before
            os.kill(newest, signal.SIGKILL)
        # SQLite may fail on the log before it is found to be short.
        while not any("CARRY_STORE: " in line["reason"] for line in logged(server, REPLACED)):
            assert server.process.poll() is None, server.log.read_text()
            time.sleep(0.05)
        assert step(server, 0, [1, 2]).status_code == 503
        assert "Traceback" not in server.log.read_text()
        assert server.stop() == 0


def test_workers_end_when_their_supervisor_is_killed(tmp_path, settings):
    with running_server(tmp_path, **settings) as server:
        wait_for_all(server)
        workers = workers_of(server)
        server.stop(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"store": "memory://"}, "CARRY_WORKERS is 2 and CARRY_STORE is memory://"),
        ({"store": "Memory://"}, "CARRY_WORKERS is 2 and CARRY_STORE is Memory://"),
        ({"workers": "0"}, "CARRY_WORKERS is '0'"),
        ({"models": "/nowhere"}, "CARRY_MODELS"),
    ],
)
def test_what_keeps_workers_from_starting_is_said_once(tmp_path, settings, setting, told):
    with pytest.raises(AssertionError) as caught:  # noqa: SIM117 -- the error comes from inside
        with running_server(tmp_path, **settings | setting):
            pass
    assert str(caught.value).count(told) == 1
    assert "Traceback" not in (tmp_path / "server.log").read_text()
