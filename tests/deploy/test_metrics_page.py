"""`deploy/metrics.md` tells of every metric of the service, and of no other."""

import re

import pytest

from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.architecture.project_files import ROOT
from tests.deploy.service_metrics import METRICS

PAGE = (ROOT / "deploy/metrics.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in PAGE.splitlines()
    if line.startswith("| `carry_")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


def explained():
    """Name of each metric → what the service itself says of it."""
    families = [collector.describe()[0] for collector in Metrics("0").registry._collector_to_names]
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.documentation
        for family in families
    }


def test_every_metric_has_one_row_and_every_row_its_metric():
    assert sorted(ROWS) == sorted(METRICS)
    assert len(re.findall(r"^\| `carry_", PAGE, re.MULTILINE)) == len(ROWS)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_row_says_what_the_service_says_and_what_to_do(name):
    kind, labels = METRICS[name]
    said_kind, said_labels, meaning, remedy = ROWS[name]
    assert said_kind == kind
    said = {label for label in said_labels.split(", ") if label}
    assert said == labels - {"le"}
    assert meaning == explained()[name]
    assert remedy.endswith((".", "?", ")"))


def test_settings_and_pages_that_are_named_exist():
    named = set(re.findall(r"`CARRY_(\w+)`", PAGE))
    assert named <= {name.upper() for name in Settings.model_fields}
    for page in re.findall(r"\]\(([\w.]+\.md)\)", PAGE):
        assert (ROOT / "deploy" / page).exists()
