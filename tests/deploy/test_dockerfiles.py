"""What the images are made of."""

import re
import subprocess

import pytest

from tests.architecture.project_files import ROOT
from tests.system import installed_program

DOCKERFILES = ["deploy/service.Dockerfile", "deploy/training.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES)
def test_hadolint_finds_nothing(path: str) -> None:
    answer = subprocess.run(
        [installed_program("hadolint"), "--failure-threshold", "warning", path],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("path", DOCKERFILES)
def test_image_runs_as_a_numbered_user_without_rights(path: str) -> None:
    """Numbered, so that an orchestrator can see that it is not root."""
    users = re.findall(r"^USER (.+)$", (ROOT / path).read_text(), re.MULTILINE)
    assert users == ["10001:10001"]


@pytest.mark.parametrize("path", DOCKERFILES)
def test_image_installs_the_pinned_versions(path: str) -> None:
    text = (ROOT / path).read_text()
    for line in re.findall(r"pip install [^\n]*", text):
        assert "--constraint constraints.txt" in line or "--no-deps" in line


def test_service_image_takes_no_part_of_training() -> None:
    text = (ROOT / "deploy/service.Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
    assert copied == [
        "pyproject.toml constraints.txt LICENSE ./",
        "service service",
        "models /models",
    ]
    assert 'case "$EXTRA" in cpu|cuda)' in text


def test_everything_copied_is_let_through_to_the_builder() -> None:
    allowed = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    for path in DOCKERFILES:
        for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / path).read_text(), re.MULTILINE):
            *sources, _ = line.split()
            assert set(sources) <= allowed
            assert all((ROOT / source).exists() for source in sources)
