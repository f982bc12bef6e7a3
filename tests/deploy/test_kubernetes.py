"""The manifests that an overlay comes to: valid, restricted, and fitting each other. No cluster."""

import subprocess
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.architecture.project_files import ROOT
from tests.system import installed_program

EXAMPLE = "deploy/kubernetes/example"


@pytest.fixture(scope="module")
def rendered() -> str:
    return subprocess.run(
        [installed_program("kubectl"), "kustomize", EXAMPLE],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def parts(rendered: str) -> dict[str, Any]:
    found = list(yaml.safe_load_all(rendered))
    by_kind = {part["kind"]: part for part in found}
    assert len(by_kind) == len(found)
    return by_kind


@pytest.fixture(scope="module")
def pod(parts: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = parts["Deployment"]["spec"]["template"]["spec"]
    return spec


def labels_of_pods(parts: dict[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    return labels


def test_every_part_fits_the_schema_of_kubernetes(rendered: str, tmp_path) -> None:
    known = [part for part in yaml.safe_load_all(rendered) if part["kind"] != "ServiceMonitor"]
    file = tmp_path / "parts.yaml"
    file.write_text(yaml.safe_dump_all(known))
    answer = subprocess.run(
        [installed_program("kubernetes-validate"), "--strict", str(file)],
        capture_output=True, text=True,
    )  # fmt: skip
    said = answer.stdout + answer.stderr
    assert answer.returncode == 0, said
    assert said.count(" passed ") == len(known)


def test_monitor_has_the_shape_that_the_operator_reads(parts: dict[str, Any]) -> None:
    monitor = parts["ServiceMonitor"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"jobLabel", "selector", "endpoints"}
    [endpoint] = monitor["spec"]["endpoints"]
    assert set(endpoint) == {"port", "path", "interval"}
    service = parts["Service"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "carry"  # up{job="carry"}


def test_everything_that_selects_replicas_selects_them(parts: dict[str, Any]) -> None:
    labels = labels_of_pods(parts).items()
    spread = parts["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"]
    selectors = [each["labelSelector"]["matchLabels"] for each in spread]
    selectors += [
        parts[kind]["spec"]["selector"]["matchLabels"]
        for kind in ("Deployment", "PodDisruptionBudget")
    ]
    selectors.append(parts["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    selectors.append(parts["Service"]["spec"]["selector"])
    assert all(selector and selector.items() <= labels for selector in selectors)
    target = parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == parts["Deployment"]["metadata"]["name"]
    assert "replicas" not in parts["Deployment"]["spec"]


def test_replicas_may_ask_for_names_and_for_the_store_alone(parts: dict[str, Any]) -> None:
    names, store = parts["NetworkPolicy"]["spec"]["egress"]
    assert names["to"][0]["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
    assert {port["port"] for port in names["ports"]} == {53}
    assert store["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "valkey"}}}]
    assert [port["port"] for port in store["ports"]] == [6379]


def test_pod_passes_the_restricted_standard(parts: dict[str, Any], pod: dict[str, Any]) -> None:
    enforced = parts["Namespace"]["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    kinds = {next(k for k in volume if k != "name") for volume in pod["volumes"]}
    assert kinds <= {"persistentVolumeClaim", "secret", "emptyDir"}


def test_environment_of_the_cluster_is_no_setting(pod: dict[str, Any]) -> None:
    """A Service named carry would bring CARRY_PORT=tcp://… into every pod."""
    assert pod["enableServiceLinks"] is False


def test_settings_are_settings_and_files_are_mounted(
    parts: dict[str, Any], pod: dict[str, Any]
) -> None:
    settings = parts["ConfigMap"]["data"]
    assert set(settings) <= {f"CARRY_{name.upper()}" for name in Settings.model_fields}
    [container] = pod["containers"]
    assert container["envFrom"] == [
        {"configMapRef": {"name": parts["ConfigMap"]["metadata"]["name"]}}
    ]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    [password] = [v["secret"] for v in pod["volumes"] if "secret" in v]
    assert password["secretName"] == parts["Secret"]["metadata"]["name"]
    [key] = parts["Secret"]["data"]
    assert settings["CARRY_STORE_PASSWORD_FILE"] == f"{mounts['password']}/{key}"


def test_pod_has_time_to_leave(pod: dict[str, Any]) -> None:
    [container] = pod["containers"]
    [*_, program] = container["lifecycle"]["preStop"]["exec"]["command"]
    pause_s = float(program.rpartition("sleep(")[2].rstrip(")"))
    grace_s = Settings.model_fields["shutdown_grace_s"].default
    assert pod["terminationGracePeriodSeconds"] > pause_s + grace_s


def test_store_that_is_away_does_not_get_pods_killed(pod: dict[str, Any]) -> None:
    [container] = pod["containers"]
    paths = {name: container[name]["httpGet"]["path"] for name in container if "Probe" in name}
    assert paths == {
        "startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"
    }  # fmt: skip
