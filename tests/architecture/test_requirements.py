"""What each environment may hold, read from the requirements that the packages declare."""

import re
import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.project_files import ROOT

TRAINING_ONLY = {"torch", "lightning", "pytorch-lightning", "onnx", "onnxscript", "polars", "scipy"}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)


EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [
    Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines
]


def requirements_of(extra: str) -> list[Requirement]:
    return [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS[extra]]


def closure(requirements: list[Requirement]) -> set[str]:
    """Names of all that these requirements bring along, by what is installed here."""
    found: set[str] = set()
    asked = [(requirement.name, frozenset(requirement.extras)) for requirement in requirements]
    seen = set(asked)
    while asked:
        name, extras = asked.pop()
        found.add(canonicalize_name(name))
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            applies = needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            )
            entry = (needed.name, frozenset(needed.extras))
            if applies and entry not in seen:
                seen.add(entry)
                asked.append(entry)
    return found


def test_service_environment_holds_nothing_of_training() -> None:
    brought = closure(requirements_of("cpu"))
    assert {"fastapi", "starlette", "numpy", "onnxruntime"} <= brought
    assert not brought & TRAINING_ONLY


def test_training_environment_would_be_recognised() -> None:
    assert {"torch", "onnx"} <= closure(requirements_of("training"))


def test_every_requirement_of_the_service_and_its_tools_is_pinned() -> None:
    names = {canonicalize_name(requirement.name) for requirement in DECLARED}
    names |= closure(requirements_of("cpu")) | closure(requirements_of("dev"))
    missing = sorted(name for name in names if name not in PINS)
    assert not missing, f"not in constraints.txt, run `make constraints`: {missing}"


def test_pins_satisfy_the_declared_ranges() -> None:
    for requirement in DECLARED:
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement}: constraints.txt has {pin}"


def test_pins_are_plain_versions() -> None:
    for name, version in PINS.items():
        assert re.fullmatch(r"[0-9]+(\.[0-9]+)*(b[0-9]+)?(\.post[0-9]+)?", version), (
            f"{name}=={version}"
        )


def test_torch_is_pinned_where_it_is_declared() -> None:
    assert f"torch=={PINS['torch']}" in EXTRAS["training"]
