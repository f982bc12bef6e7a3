"""The Makefile explains itself and fails in plain words."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.architecture.project_files import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def make(*words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


@pytest.mark.timeout(600)  # types from nothing, beside everything else
def test_format_lint_types_and_import_rules_hold() -> None:
    answer = make("check", timeout_s=580)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_make_alone_lists_every_word() -> None:
    words = set(re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)) - {"help"}
    assert {"serve", "train", "test", "test-all", "check", "bench", "up", "down", "clean"} <= words
    answer = make()
    assert answer.returncode == 0, answer.stderr
    listed = set(re.findall(r"make ([a-z-]+) ", answer.stdout))
    assert listed == words


def test_help_shows_no_escape_codes_outside_a_terminal() -> None:
    assert "\033" not in make().stdout


def test_an_old_python_is_refused_by_name(tmp_path: Path) -> None:
    python = tmp_path / "python3.9"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    answer = make("--always-make", f"PYTHON={python}", ".venv/installed")
    assert answer.returncode != 0
    assert "expected Python 3.11 or newer" in answer.stderr
    assert str(python) in answer.stderr


def test_serve_installs_only_the_service() -> None:
    assert re.search(r"^\.venv/installed: EXTRAS := cpu,bulk$", MAKEFILE, re.MULTILINE)
    assert re.search(r"^serve: \.venv/installed ##", MAKEFILE, re.MULTILINE)
