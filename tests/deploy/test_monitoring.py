"""Prometheus and Grafana speak of metrics that the service has, in expressions that parse."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.telemetry.metrics import Metrics
from tests.architecture.project_files import ROOT
from tests.deploy.service_metrics import METRICS, series_names
from tests.system import require_program

PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/carry.json").read_text())
ALERT_TESTS = ["alerts_test.yml", "alerts_host_test.yml"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

# What Grafana puts in before it asks Prometheus.
GRAFANA_WORDS = {"$__rate_interval": "1m", "$__range": "1h", "$model": ".*"}


def promtool(*words: str) -> None:
    program = require_program("promtool", package="prometheus")
    answer = subprocess.run([program, *words], cwd=PROMETHEUS, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def dashboard_expressions() -> list[str]:
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    found += [mark["expr"] for mark in DASHBOARD["annotations"]["list"]]
    for word, value in GRAFANA_WORDS.items():
        found = [expression.replace(word, value) for expression in found]
    return found


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def every_expression() -> list[str]:
    asked = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"]]
    return dashboard_expressions() + asked + [rule["expr"] for rule in alerts() + recorded()]


def test_prometheus_accepts_its_configuration() -> None:
    promtool("check", "config", "prometheus.yml")


def test_alerts_fire_and_stay_silent_as_written_down() -> None:
    promtool("test", "rules", *ALERT_TESTS)


def test_errors_that_an_alert_asks_for_are_shown_before_the_first_one() -> None:
    """`increase` does not see a series that begins above 0."""
    asked = " ".join(rule["expr"] for rule in alerts())
    [codes] = re.findall(r'carry_session_errors_total\{code=~"([^"]+)"\}', asked)
    shown = Metrics("0").registry
    for code in codes.split("|"):
        assert shown.get_sample_value("carry_session_errors_total", {"code": code}) == 0


def test_every_alert_is_tried_firing_and_silent() -> None:
    cases = [
        case
        for file in ALERT_TESTS
        for test in yaml.safe_load((PROMETHEUS / file).read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    names = {rule["alert"] for rule in alerts()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "action", "runbook"}


def test_every_alert_has_its_recipe_and_every_recipe_its_alert() -> None:
    text = (ROOT / "deploy/incidents.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        anchor = f"deploy/incidents.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook"] == anchor
    anchors = set(re.findall(r"\]\(#(\w+)\)", text))
    assert anchors <= {rule["alert"].lower() for rule in alerts()}


def test_every_recorded_series_that_is_asked_for_is_recorded() -> None:
    asked = set(re.findall(r"\bcarry:[a-z_:0-9]+", " ".join(every_expression())))
    assert asked
    assert asked <= {rule["record"] for rule in recorded()}


def test_dashboard_expressions_parse(tmp_path: Path) -> None:
    expressions = dashboard_expressions()
    assert not [expression for expression in expressions if "$" in expression]
    rules = [{"record": f"panel:{n}", "expr": e} for n, e in enumerate(expressions)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_only_metrics_of_the_service_are_named() -> None:
    named = set(re.findall(r"\bcarry_[a-z_]+", " ".join(every_expression())))
    assert named <= series_names(), f"unknown to the service: {sorted(named - series_names())}"


def test_every_metric_of_the_service_is_shown() -> None:
    shown = " ".join(dashboard_expressions())
    assert not [name for name in METRICS if name not in shown]


def test_only_labels_of_the_metric_are_selected() -> None:
    found = re.findall(r"\b(carry_[a-z_]+)\{([^}]*)\}", " ".join(every_expression()))
    assert found
    for series, selector in found:
        name = re.sub(r"_(bucket|sum|count)$", "", series)
        used = set(re.findall(r"(\w+)[=!]", selector))
        assert used <= METRICS[name][1], f"{series}{{{selector}}}"


def test_panels_have_their_own_ids_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        box = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(box["x"], box["x"] + box["w"])
            for y in range(box["y"], box["y"] + box["h"])
        }
        assert not cells & taken, panel["title"]
        assert box["x"] + box["w"] <= 24
        taken |= cells


def test_panels_ask_the_provisioned_source() -> None:
    folder = ROOT / "deploy/grafana/provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"][0]
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    for panel in PANELS:
        assert panel["datasource"]["uid"] == source["uid"]
        assert all(target["datasource"]["uid"] == source["uid"] for target in panel["targets"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_explains_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["targets"]
