"""Every test that the threat model names exists."""

import re

from tests.architecture.project_files import ROOT

PAGE = (ROOT / "deploy/threat-model.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)


def test_every_threat_names_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| a")]
    assert len(rows) >= 20
    assert len(NAMED) == len(rows)


def test_the_tests_that_are_named_exist():
    for file, name in NAMED:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name or 'test_'}", text, re.MULTILINE), (file, name)
        assert not name or f"def {name}(" in text, (file, name)
