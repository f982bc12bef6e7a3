"""Graphs brought along as from the command line."""

import contextlib
import io
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from training import __main__ as command_line

_WHAT_TO_DO = (
    "--",
    "export",
    "copy",
    "use ",
    "name one",
    "expected an ONNX file",
    "download",
    "fetch",
)


def import_onnx(path: Path, *options: str, models: Path) -> None:
    """`python -m training import-onnx …`; a refusal is raised with what it told."""
    code, _ = attempt(path, *options, models=models)
    assert code in (0, None), f"exit {code}"


def attempt(path: Path, *options: str, models: Path) -> tuple[object, str]:
    """The exit code and what was told on standard error, which is shown too."""
    words = ["training", "import-onnx", str(path), *options, "--models", str(models)]
    errors = io.StringIO()
    with (
        patch.object(sys, "argv", words),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        command_line.main()
    print(errors.getvalue(), file=sys.stderr)
    return ended.value.code, errors.getvalue()


def imported_or_refused(path: Path, *options: str, models: Path) -> str:
    """'' if it was imported; else what was told, which must be clear and say what to do."""
    code, told = attempt(path, "--name", "graph", *options, models=models)
    if code in (0, None):
        assert (models / "graph" / "1" / "manifest.json").exists()
        return ""
    assert code == 2, told
    assert told.startswith("import-refused: "), told
    assert "Traceback" not in told
    assert any(word in told for word in _WHAT_TO_DO), f"it does not say what to do: {told}"
    lines = told.strip().split("\n")
    assert len(lines) == 1 or lines[0].endswith("say:"), "one line, or a list of options"
    assert not (models / "graph").exists(), "nothing is written of a graph that is refused"
    return told
