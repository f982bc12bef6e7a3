"""Graphs brought along as from the command line."""

import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from training import __main__ as command_line


def import_onnx(path: Path, *options: str, models: Path) -> None:
    """`python -m training import-onnx …`; a refusal is raised with what it told."""
    words = ["training", "import-onnx", str(path), *options, "--models", str(models)]
    with patch.object(sys, "argv", words), pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code in (0, None), f"exit {ended.value.code}"
