"""Scaling on the queue: the manifest asks for what the adapter makes of a metric of the service."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.architecture.project_files import ROOT
from tests.deploy.service_metrics import METRICS
from tests.deploy.test_monitoring import promtool
from tests.system import installed_program

FOLDER = ROOT / "deploy/kubernetes/queue-scaling"
[RULE] = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]


@pytest.fixture(scope="module")
def autoscaler(tmp_path_factory) -> dict[str, Any]:
    """Of the example's overlay with the component."""
    folder = tmp_path_factory.mktemp("overlay")
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "resources": [os.path.relpath(ROOT / "deploy/kubernetes/example", folder)],
                "components": [os.path.relpath(FOLDER, folder)],
            }
        )
    )
    rendered = subprocess.run(
        [installed_program("kubectl"), "kustomize", str(folder)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    [found] = [
        part for part in yaml.safe_load_all(rendered) if part["kind"] == "HorizontalPodAutoscaler"
    ]
    return found


def test_the_autoscaler_fits_the_schema_and_still_asks_for_processors(
    autoscaler: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "autoscaler.yaml"
    file.write_text(yaml.safe_dump(autoscaler))
    answer = subprocess.run(
        [installed_program("kubernetes-validate"), "--strict", str(file)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert [metric["type"] for metric in autoscaler["spec"]["metrics"]] == ["Resource", "Pods"]


def test_it_asks_for_what_the_adapter_calls_a_metric_of_the_service(
    autoscaler: dict[str, Any],
) -> None:
    [_, queue] = autoscaler["spec"]["metrics"]
    assert queue["pods"]["metric"]["name"] == RULE["name"]["as"]
    name, _, labels = RULE["seriesQuery"].partition("{")
    assert METRICS[name][0] == "gauge"
    # The labels of a target, which Prometheus adds; the metric must not have them itself.
    assert not set(RULE["resources"]["overrides"]) & METRICS[name][1]
    assert all(f'{each}!=""' in labels for each in RULE["resources"]["overrides"])


def test_a_replica_is_full_when_more_waits_than_a_batch_takes(autoscaler: dict[str, Any]) -> None:
    [_, queue] = autoscaler["spec"]["metrics"]
    most = Settings.model_fields["max_batch_rows"].default
    assert queue["pods"]["target"] == {"type": "AverageValue", "averageValue": str(most)}


def test_what_the_adapter_asks_of_prometheus_is_an_expression(tmp_path: Path) -> None:
    expression = RULE["metricsQuery"]
    for word, value in (
        ("<<.Series>>", "carry_queue_depth"),
        ("<<.LabelMatchers>>", 'namespace="carry",pod=~"a|b"'),
        ("<<.GroupBy>>", "pod"),
    ):
        assert word in expression
        expression = expression.replace(word, value)
    file = tmp_path / "rules.yml"
    rules = [{"record": "queue:now", "expr": expression}]
    file.write_text(yaml.safe_dump({"groups": [{"name": "adapter", "rules": rules}]}))
    promtool("check", "rules", str(file))
