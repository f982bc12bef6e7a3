"""A run of tests ends by itself, names what failed, and leaves nothing running."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.architecture.project_files import ROOT

PLANTED = {
    "hangs": "def test_hangs():\n    while True:\n        pass\n",
    "hangs_in_a_property": """
from hypothesis import given, strategies as st
@given(st.integers())
def test_hangs_in_a_property(_):
    while True:
        pass
""",
    "waits_for_a_thread": """
import threading
from tests.system import in_thread
def test_waits_for_a_thread():
    with in_thread(threading.Event().wait):
        assert False, "inside"
""",
    "skips_inside": """
import threading, pytest
from tests.system import in_thread
def test_skips_inside():
    with in_thread(threading.Event().wait):
        pytest.skip("a program is missing")
""",
    "leaves_a_process": """
import subprocess
def test_leaves_a_process():
    subprocess.Popen(["sleep", "600"])
""",
    "leaves_an_orphan": """
import subprocess
def test_leaves_an_orphan():
    subprocess.run(["sh", "-c", "sleep 601 >/dev/null 2>&1 &"], check=True)
""",
    "leaves_a_thread": """
import threading, time
def test_leaves_a_thread():
    threading.Thread(target=time.sleep, args=(8,), name="sleeper").start()
""",
    "passes": "def test_passes():\n    pass\n",
}

REASONS = {
    "hangs": "Timeout (>2.0s)",
    "hangs_in_a_property": "TimedOut",
    "waits_for_a_thread": "AssertionError: inside",
    "skips_inside": "a program is missing",
    "leaves_a_process": "left running by this test: process",
    "leaves_a_thread": "sleeper",
}


def test_a_run_ends_by_itself_names_what_failed_and_leaves_nothing(tmp_path: Path) -> None:
    for name, text in PLANTED.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "test_slow.py").write_text("def test_slow():\n    assert False\n")
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "conftest"]
    command += ["-p", "no:cacheprovider", "--timeout=2", "-m", "not slow", tmp_path]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "TEST_", "REQUIRE"))}
    answer = subprocess.run(
        command,
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    printed, summary = answer.stdout, answer.stdout.partition("short test summary")[2]
    assert answer.returncode == pytest.ExitCode.TESTS_FAILED, printed + answer.stderr
    for name, reason in REASONS.items():
        assert reason in printed, printed
        assert f"test_{name}.py" in summary, name
    assert "1 skipped, 1 deselected" in summary
    assert "test_passes" not in summary
    for process in psutil.process_iter(["cmdline"]):
        assert process.info["cmdline"] not in (["sleep", "600"], ["sleep", "601"])
