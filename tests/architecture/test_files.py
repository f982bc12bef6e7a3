"""What holds for every file of the project."""

import ast
import re

import pytest

from tests.architecture.project_files import ROOT, project_files

SOFT_LIMIT = 300
HARD_LIMIT = 400
TEXT_SUFFIXES = {
    "", ".cfg", ".css", ".html", ".ini", ".js", ".json", ".md", ".py", ".sh", ".toml", ".txt",
    ".yaml", ".yml", ".Dockerfile", ".conf",
}  # fmt: skip

# A path of somebody's machine, or the place that packages come from: both belong to the machine.
MACHINE_TEXT = re.compile(
    r"(?<![\w.])/(?:home|root|Users|work|mnt|workspace)/"
    r"|(?<![\w.])/opt/(?:wheels|pypi)"
    r"|pythonhosted|(?<!import )pypi\.org|download\.pytorch|(?:extra-)?index-url|find-links"
)


def line_counts() -> dict[str, int]:
    return {
        str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines())
        for path in project_files(".py")
    }


def test_no_module_passes_the_hard_limit() -> None:
    too_long = {path: count for path, count in line_counts().items() if count > HARD_LIMIT}
    assert not too_long, f"over {HARD_LIMIT} lines, split by what a reader looks for: {too_long}"


def test_modules_past_the_soft_limit_are_rare() -> None:
    counts = line_counts()
    long = {path: count for path, count in counts.items() if count > SOFT_LIMIT}
    allowed = max(1, len(counts) // 25)
    assert len(long) <= allowed, f"at most {allowed} modules over {SOFT_LIMIT} lines, found: {long}"


def test_no_file_speaks_of_one_machine() -> None:
    found = []
    for path in project_files(*TEXT_SUFFIXES):
        if (ROOT / path).samefile(__file__):
            continue
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        found += [
            f"{path}:{number}: {match[0]}"
            for number, line in enumerate(lines, start=1)
            if (match := MACHINE_TEXT.search(line))
        ]
    assert not found, f"machine paths and package hosts are the machine's own matter: {found}"


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("/home/me/carry", True),
        ("see /root/x", True),
        ("pip install --extra-index-url", True),
        ("https://example.org/home/me", False),
        ("/opt/venv/bin/python", False),
    ],
)
def test_machine_text_is_recognised(text: str, is_found: bool) -> None:
    assert bool(MACHINE_TEXT.search(text)) == is_found


@pytest.mark.parametrize("package", ["service", "service/contract"])
def test_package_imports_nothing_by_itself(package: str) -> None:
    """Otherwise importing one module of it would bring what only another one needs."""
    body = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")).body
    code = [node for node in body if not isinstance(node, ast.Expr)]
    assert not code, f"{package}/__init__.py may hold a docstring only"
