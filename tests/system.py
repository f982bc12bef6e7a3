"""Programs that tests need of the machine and pip cannot bring."""

import shutil
import sys
from pathlib import Path

import pytest


def require_program(name: str, package: str) -> str:
    """The path of `name`; without it the test is skipped, naming the Debian package to install.

    Under REQUIRE_ALL=1 such a skip fails (see conftest.py at the root).
    """
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


def installed_program(name: str) -> str:
    """The path of a program that the extra `dev` installs beside this Python."""
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{path} is missing: install the extra 'dev' (make test does)"
    return str(path)
