"""What docker-compose.yml promises, read from its resolved form. No engine is needed."""

import json
import re
import subprocess
from typing import Any

import pytest

from service.settings import Settings
from tests.architecture.project_files import ROOT
from tests.system import installed_program

SERVICES = [
    "front", "service", "valkey", "valkey-exporter", "node-exporter", "prometheus", "grafana"
]  # fmt: skip


def resolve(**environment: str) -> dict[str, Any]:
    answer = subprocess.run(
        [installed_program("docker-compose"), "config", "--format", "json"],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert not answer.stderr, answer.stderr  # a variable without a default would be named there
    resolved: dict[str, Any] = json.loads(answer.stdout)
    return resolved


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = resolve()["services"]
    assert sorted(found) == sorted(SERVICES)
    return found


def test_file_fits_the_compose_specification() -> None:
    subprocess.run(
        [installed_program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec",
         "docker-compose.yml"], cwd=ROOT, check=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_container_is_guarded(services: dict[str, Any], name: str) -> None:
    container = services[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in container["security_opt"]
    assert "privileged" not in container
    assert "cap_add" not in container


@pytest.mark.parametrize("name", SERVICES)
def test_container_is_bounded(services: dict[str, Any], name: str) -> None:
    container = services[name]
    assert int(container["mem_limit"]) <= 2 * 1024**3
    assert 0 < float(container["cpus"]) <= 2
    assert 0 < container["pids_limit"] <= 256
    assert set(container["logging"]["options"]) == {"max-size", "max-file"}


def test_processes_of_the_front_are_as_many_as_its_processors(services: dict[str, Any]) -> None:
    """Not those of the machine, which `auto` counts: of many they would use up `pids_limit`."""
    config = (ROOT / "deploy/nginx/nginx.conf").read_text()
    [number] = re.findall(r"^worker_processes (\w+);", config, re.MULTILINE)
    assert number == str(services["front"]["cpus"])


@pytest.mark.parametrize("name", SERVICES)
def test_container_says_whether_it_is_well(services: dict[str, Any], name: str) -> None:
    assert services[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "service"])
def test_foreign_image_is_pinned_to_a_version(services: dict[str, Any], name: str) -> None:
    tag = services[name]["image"].rpartition(":")[2]
    assert tag.lstrip("v")[0].isdigit(), services[name]["image"]


def test_nothing_is_published_beyond_this_machine(services: dict[str, Any]) -> None:
    ports = [port for container in services.values() for port in container.get("ports", [])]
    assert len(ports) == 3
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_replicas_are_reached_by_way_of_the_front_alone(services: dict[str, Any]) -> None:
    assert "ports" not in services["service"]
    assert set(services["service"]["networks"]) == {"back", "store"}
    networks = resolve()["networks"]
    assert networks["back"]["internal"] is networks["store"]["internal"] is True
    assert services["service"]["deploy"]["replicas"] == 2
    assert resolve(CARRY_REPLICAS="5")["services"]["service"]["deploy"]["replicas"] == 5


def test_address_and_ports_can_be_chosen() -> None:
    chosen = resolve(BIND_ADDRESS="192.0.2.1", CARRY_PORT="9000")["services"]["front"]["ports"]
    assert [(port["host_ip"], port["published"]) for port in chosen] == [("192.0.2.1", "9000")]


def test_valkey_is_reached_by_the_service_and_its_exporter_alone(services: dict[str, Any]) -> None:
    assert resolve()["networks"]["store"]["internal"] is True
    assert "ports" not in services["valkey"]
    on_store = [name for name, container in services.items() if "store" in container["networks"]]
    assert sorted(on_store) == ["service", "valkey", "valkey-exporter"]


def test_sessions_outlive_their_containers(services: dict[str, Any]) -> None:
    assert {"valkey"} == {
        v["source"] for v in services["valkey"]["volumes"] if v["type"] == "volume"
    }
    assert services["service"]["environment"]["CARRY_STORE"] == "redis://valkey:6379/0"
    assert all(volume["read_only"] for volume in services["service"]["volumes"])


def test_settings_of_the_shell_do_not_leak_into_the_container() -> None:
    """`make serve` keeps its sessions under var/, which does not exist in the image."""
    container = resolve(CARRY_STORE="sqlite:///var/carry.db")["services"]["service"]
    assert container["environment"]["CARRY_STORE"] == "redis://valkey:6379/0"


def test_settings_of_the_service_are_settings(services: dict[str, Any]) -> None:
    gpu = resolve(COMPOSE_PROFILES="gpu")["services"]["service-gpu"]
    for container in (services["service"], gpu):
        names = {f"CARRY_{name.upper()}" for name in Settings.model_fields}
        assert set(container["environment"]) <= names


def test_password_of_valkey_is_a_file_and_nowhere_else(services: dict[str, Any]) -> None:
    assert set(resolve()["secrets"]) == {"valkey_password"}
    for name in ("service", "valkey", "valkey-exporter"):
        assert [secret["source"] for secret in services[name]["secrets"]] == ["valkey_password"]
    shown = json.dumps([services["valkey"]["command"], services["service"]["environment"]])
    assert "/run/secrets/valkey_password" in shown
    assert "requirepass %s" in shown


def test_a_new_password_is_given_to_everyone_who_reads_it(services: dict[str, Any]) -> None:
    """Each reads it once, when it starts: the recipe must start them all again."""
    page = (ROOT / "deploy/README.md").read_text()
    [recreated] = re.findall(r"^docker compose up .*--force-recreate ([^#\n]+)", page, re.MULTILINE)
    readers = {name for name, container in services.items() if container.get("secrets")}
    assert {*recreated.split(), "service"} == readers
    assert re.search(r"--force-recreate .*\nmake roll\b", page)


def test_valkey_writes_before_it_answers_and_evicts_nothing(services: dict[str, Any]) -> None:
    lines = (ROOT / "deploy/valkey/valkey.conf").read_text().splitlines()
    options = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert options["appendonly"] == "yes"
    assert options["appendfsync"] == "always"
    assert options["maxmemory-policy"] == "noeviction"
    assert options["maxmemory"] == "512mb"
    assert int(services["valkey"]["mem_limit"]) >= 2 * 512 * 1024**2


def test_profiles_add_what_they_name_and_are_guarded() -> None:
    for profile, name in (("gpu", "service-gpu"), ("training", "training"), ("tracing", "jaeger")):
        added = resolve(COMPOSE_PROFILES=profile)["services"]
        assert set(added) == {*SERVICES, name}
        test_container_is_guarded(added, name)
        assert added[name]["pids_limit"] > 0
        assert int(added[name]["mem_limit"]) > 0


def test_traces_are_off_unless_asked_for_and_reach_their_collector() -> None:
    assert resolve()["services"]["service"]["environment"]["CARRY_OTLP_ENDPOINT"] == ""
    traced = resolve(COMPOSE_PROFILES="tracing", CARRY_OTLP_ENDPOINT="http://jaeger:4318")
    replica, collector = traced["services"]["service"], traced["services"]["jaeger"]
    assert replica["environment"]["CARRY_OTLP_ENDPOINT"] == "http://jaeger:4318"
    assert set(replica["networks"]) & set(collector["networks"]) == {"back"}


def test_replicas_on_a_gpu_are_found_by_the_same_name() -> None:
    gpu = resolve(COMPOSE_PROFILES="gpu", CARRY_REPLICAS="0")["services"]["service-gpu"]
    assert gpu["networks"]["back"]["aliases"] == ["service"]
    assert gpu["build"]["args"] == {"EXTRA": "cuda"}
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"


def test_training_reaches_no_network_and_writes_models() -> None:
    training = resolve(COMPOSE_PROFILES="training")["services"]["training"]
    assert training["network_mode"] == "none"
    assert training["restart"] == "no"
    [models] = [v for v in training["volumes"] if v["target"] == "/carry/models"]
    assert models["source"] == str(ROOT / "models")
    assert not models.get("read_only")


def test_accepted_requests_have_time_to_finish(services: dict[str, Any]) -> None:
    grace = services["service"]["stop_grace_period"]
    assert grace.endswith("s")
    assert float(grace[:-1]) > Settings.model_fields["shutdown_grace_s"].default


def test_mounted_files_exist(services: dict[str, Any]) -> None:
    from_host = [
        volume
        for container in services.values()
        for volume in container.get("volumes", [])
        if volume["type"] == "bind"
    ]
    assert from_host
    for volume in from_host:
        assert (ROOT / volume["source"]).exists(), volume["source"]
        assert volume["read_only"] is True, volume["source"]
