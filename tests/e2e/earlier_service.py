"""The service as it was before records of format 2, taken from the history of this repository."""

import subprocess
import sys
import tarfile
from io import BytesIO

import pytest

from tests.e2e.server import ROOT
from tests.system import require_program

_FIRST_OF_FORMAT_2 = "PLAIN_FORMAT = 1"
"""This line came with format 2, in this file, and with no commit before."""
_FILE = "service/stores/record.py"  # where it lay then


def git(*arguments: str) -> bytes:
    run = [require_program("git", package="git"), *arguments]
    return subprocess.run(run, cwd=ROOT, check=True, capture_output=True).stdout


def last_commit_of_format_1() -> str:
    """Its hash, found by what changed, so that a rebase does not lose it."""
    if git("rev-parse", "--is-shallow-repository").strip() == b"true":
        pytest.fail("the history of this clone is cut short: git fetch --unshallow, then again")
    found = git("log", "--reverse", "--format=%P", f"-S{_FIRST_OF_FORMAT_2}", "--", _FILE).split()
    if not found:
        pytest.fail(
            f"no commit with a parent brought {_FIRST_OF_FORMAT_2!r} into {_FILE}: the history does"
            " not hold the service of format 1; take a clone with all of it"
        )
    return found[0].decode()


def unpack_earlier_service(folder) -> None:
    """The sources of the last service that wrote nothing but format 1."""
    packed = git("archive", last_commit_of_format_1(), "service", "tests")
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")


def write_its_bundles(root, folder) -> None:
    """Bundles as that service reads them; every later one must read them too."""
    write = (
        "from pathlib import Path; from tests.fakes import bundles; folder = Path({!r});"
        " bundles.write_forecaster(folder); bundles.write_classifier(folder)"
    )
    command = [sys.executable, "-c", write.format(str(folder))]
    subprocess.run(command, cwd=root, check=True, timeout=60)
