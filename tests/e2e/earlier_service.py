"""The service as it was, taken from the history of this repository.

`format-1`: the last one before records of format 2. `one-folder`: the last one whose API was one
folder of modules, with all that the API and records of today have.
"""

import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.e2e.server import ROOT
from tests.system import require_program

_FIRST_OF_FORMAT_2 = "PLAIN_FORMAT = 1"
"""This line came with format 2, in this file, and with no commit before."""
_FILE = "service/stores/record.py"  # where it lay then


def git(*arguments: str) -> bytes:
    run = [require_program("git", package="git"), *arguments]
    return subprocess.run(run, cwd=ROOT, check=True, capture_output=True).stdout


def _commit_before(*changes: str) -> str:
    """Its hash, found by what changed, so that a rebase does not lose it."""
    if git("rev-parse", "--is-shallow-repository").strip() == b"true":
        pytest.fail("the history of this clone is cut short: git fetch --unshallow, then again")
    found = git("log", "--reverse", "--format=%P", *changes).split()
    if not found:
        pytest.fail(
            f"git log {' '.join(changes)} finds no commit with a parent: the history does not hold"
            " the earlier service; take a clone with all of it"
        )
    return found[0].decode()


def unpack_earlier_service(which: str, folder: Path) -> None:
    """Its sources, and the tests of that time."""
    changes = {
        "format-1": [f"-S{_FIRST_OF_FORMAT_2}", "--", _FILE],
        "one-folder": ["--diff-filter=A", "--", "service/api/codec/decode.py"],
    }[which]
    packed = git("archive", _commit_before(*changes), "service", "tests")
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
