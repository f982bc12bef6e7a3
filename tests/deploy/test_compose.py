"""What docker-compose.yml promises, read from its resolved form. No engine is needed."""

import json
import subprocess
from typing import Any

import pytest

from service.settings import Settings
from tests.architecture.project_files import ROOT
from tests.system import installed_program

SERVICES = ["service", "valkey", "prometheus", "grafana"]


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


def test_address_and_ports_can_be_chosen() -> None:
    chosen = resolve(BIND_ADDRESS="192.0.2.1", CARRY_PORT="9000")["services"]["service"]["ports"]
    assert [(port["host_ip"], port["published"]) for port in chosen] == [("192.0.2.1", "9000")]


def test_valkey_is_reached_by_the_service_alone(services: dict[str, Any]) -> None:
    assert resolve()["networks"]["store"]["internal"] is True
    assert "ports" not in services["valkey"]
    on_store = [name for name, container in services.items() if "store" in container["networks"]]
    assert sorted(on_store) == ["service", "valkey"]


def test_sessions_outlive_their_containers(services: dict[str, Any]) -> None:
    for name in ("service", "valkey"):
        assert [(v["type"], v["target"]) for v in services[name]["volumes"]] == [
            ("volume", "/data")
        ]
    assert services["service"]["environment"]["CARRY_STORE"].startswith("sqlite:////data/")


def test_settings_of_the_shell_do_not_leak_into_the_container() -> None:
    """`make serve` keeps its sessions under var/, which does not exist in the image."""
    container = resolve(CARRY_STORE="sqlite:///var/carry.db")["services"]["service"]
    assert container["environment"]["CARRY_STORE"] == "sqlite:////data/carry.db"


def test_valkey_writes_before_it_answers_and_evicts_nothing(services: dict[str, Any]) -> None:
    words = services["valkey"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--maxmemory"] == "512mb"
    assert int(services["valkey"]["mem_limit"]) >= 2 * 512 * 1024**2


def test_accepted_requests_have_time_to_finish(services: dict[str, Any]) -> None:
    grace = services["service"]["stop_grace_period"]
    assert grace.endswith("s")
    assert float(grace[:-1]) > Settings.model_fields["shutdown_grace_s"].default


def test_mounted_files_exist(services: dict[str, Any]) -> None:
    from_host = [
        volume
        for container in services.values()
        for volume in container["volumes"]
        if volume["type"] == "bind"
    ]
    assert from_host
    for volume in from_host:
        assert (ROOT / volume["source"]).exists(), volume["source"]
        assert volume["read_only"] is True, volume["source"]
