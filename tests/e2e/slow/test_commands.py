"""The commands, as a shell starts them: without some packages, and with a reader that leaves."""

import os
import subprocess
import sys

import pytest

from tests.architecture.project_files import ROOT

WITHOUT = """
import sys
sys.modules[{package!r}] = None  # as if it were not installed
sys.argv = ["carry", *{arguments!r}]
from {module}.__main__ import main
main()
"""


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["doctor"], []])
def test_a_service_without_a_runtime_says_what_to_install(arguments: list[str]) -> None:
    program = WITHOUT.format(package="onnxruntime", arguments=arguments, module="service")
    ended = run("-c", program)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith("carry: the package 'onnxruntime' is not installed")
    assert line.endswith('pip install "carry-serving[cpu]"')


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("typer", ["--help"]),
        ("rich", ["datasets"]),
        ("polars", ["datasets"]),
        ("torch", ["fit", "training/recipes/hello.toml"]),
        ("onnx", ["export", "runs/hello/001"]),
    ],
)
def test_training_without_its_extra_says_what_to_install(package: str, arguments) -> None:
    program = WITHOUT.format(package=package, arguments=arguments, module="training")
    ended = run("-c", program)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"carry-train: the package {package!r} is not installed")
    assert line.endswith('pip install "carry-serving[training]"')


@pytest.mark.parametrize("module", ["service", "training"])
def test_a_module_of_the_project_that_is_missing_is_a_bug_and_keeps_its_traceback(module) -> None:
    missing = {"service": "service.server", "training": "training.config"}[module]
    ended = run("-c", WITHOUT.format(package=missing, arguments=["--help"], module=module))
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert missing in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (["-m", "service", "doctor"], {141}),
        (["-m", "service", "--help"], {0, 141}),  # some argparse ignore that nobody reads
        (["-m", "training", "--help"], {1}),
        (["-m", "training", "datasets"], {1}),
    ],
)
def test_a_reader_that_has_gone_is_no_traceback(arguments: list[str], codes: set[int]) -> None:
    """As in `carry doctor | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = run(*arguments, stdout=writer)
    finally:
        os.close(writer)
    assert ended.stderr == ""
    assert ended.returncode in codes
