"""`deploy/metrics.md` tells of every metric of the service, and of no other."""

import re

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


def test_a_row_says_what_the_service_says_and_what_to_do():
    meanings = explained()
    for name, (kind, labels) in METRICS.items():
        said_kind, said_labels, meaning, remedy = ROWS[name]
        assert said_kind == kind, name
        assert {label for label in said_labels.split(", ") if label} == labels - {"le"}, name
        assert meaning == meanings[name], name
        assert remedy.endswith((".", "?", ")")), name
