"""A real Prometheus, started as the compose file starts it, keeps exemplars of the service."""

import json
import time

import httpx
import yaml

from tests.architecture.project_files import ROOT
from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster
from tests.system import free_port, require_program, running_process

AT_MOST_S = 40
OPEN = {"model": "load", "session": "s", "start": "2016-08-22"}
STEPS = "/v1/sessions/{session}/steps"


def feature_flags():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    command = compose["services"]["prometheus"]["command"]
    return [word for word in command if word.startswith("--enable-feature")]


def exemplars(url, process):
    """Labels of the exemplars of steps, as soon as there are any."""
    asked = {
        "query": f'carry_http_request_seconds_bucket{{route="{STEPS}"}}',
        "start": time.time() - 600,
        "end": time.time() + 600,
    }
    deadline = time.monotonic() + AT_MOST_S
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            answer = httpx.get(f"{url}/api/v1/query_exemplars", params=asked)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code == 200 and answer.json()["data"]:
            found = answer.json()["data"]
            return [each["labels"] for series in found for each in series["exemplars"]]
        time.sleep(0.1)
    raise AssertionError(f"no exemplar within {AT_MOST_S} s")


def test_prometheus_keeps_the_id_of_a_slow_request(tmp_path):
    program = require_program("prometheus", package="prometheus")
    write_forecaster(tmp_path / "models")
    settings = {"models": tmp_path / "models", "store": "memory://", "slow_request_s": 1e-9}
    with running_server(tmp_path, **settings) as server:
        httpx.post(server.url + "/v1/sessions", json=OPEN).raise_for_status()
        httpx.post(
            f"{server.url}/v1/sessions/s/steps",
            json={"observations": [[1, 2]]},
            headers={"X-Request-ID": "slow-1"},
        ).raise_for_status()
        targets = [{"targets": [f"127.0.0.1:{server.port}"]}]
        scrape = {"job_name": "carry", "scrape_interval": "500ms", "static_configs": targets}
        (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape]}))
        port = free_port()
        command = [
            program,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            *feature_flags(),
        ]
        with (
            (tmp_path / "prometheus.log").open("wb") as log,
            running_process(command, stdout=log, stderr=log) as process,
        ):
            assert exemplars(f"http://127.0.0.1:{port}", process) == [{"request_id": "slow-1"}]
