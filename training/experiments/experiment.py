"""Experiments: a published comparison made again, with seeds, a table, a picture and a command.

A module of this package that defines `EXPERIMENT` is one; adding an experiment is adding a file.

Rule 1: a job is one method with one seed, and depends on nothing else. It can be run again alone.
Rule 2: finished jobs are kept in `results.json` with their settings. A job is run again only when
        its settings have changed, so an experiment can be stopped and called again at any time.
Rule 3: what is reported is what was measured, whichever order comes out.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from pydantic import BaseModel

import training.experiments
from training.errors import RecipeError
from training.evaluate.report import Plot, Table

Settings = dict[str, str | int | float | bool | None]
DATA_SETTING: Final = "data_sha256"
"""The setting that says which data file a job read, where it reads one."""


def cell_settings(kind: str, options: Mapping[str, object]) -> Settings:
    """What of a job's settings says which cell it trains."""
    return {"cell": kind, **{name: str(value) for name, value in options.items()}}


@dataclass(frozen=True, slots=True)
class Job:
    """One method with one seed."""

    method: str
    seed: int
    settings: Settings
    """Everything that decides the outcome."""


class Outcome(BaseModel):
    """What a job measured. `figure` is the number that the table reports."""

    figure: float | None
    """None: the method diverged."""
    curve: list[tuple[float, float | None]]
    """What the picture shows, such as (update, error)."""
    num_weights: int
    num_updates: int
    seconds: float
    details: dict[str, float] = {}


class Result(BaseModel):
    """A finished job."""

    method: str
    seed: int
    settings: Settings
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Findings:
    """What a report says of the results."""

    summary: str
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    deviations: tuple[str, ...]
    """How it differs from what was published."""


@dataclass(frozen=True)
class Experiment(ABC):
    """One experiment in one of its variants."""

    variant: str
    data_path: str | None = None

    name: ClassVar[str]
    title: ClassVar[str]
    variants: ClassVar[dict[str, str]]
    """Name → what it is and how long it takes; the first is the default."""

    @abstractmethod
    def jobs(self, num_seeds: int) -> list[Job]:
        """All of them, in the order in which they are best run."""

    @abstractmethod
    def run(self, job: Job) -> Outcome:
        """Train and measure; one thread, seeded by the job alone."""

    @abstractmethod
    def find(self, results: Sequence[Result]) -> Findings:
        """Tables and pictures of whatever results there are."""

    @property
    def folder(self) -> str:
        return self.name if len(self.variants) == 1 else f"{self.name}-{self.variant}"


def find_experiment(name: str, variant: str | None, data_path: str | None) -> Experiment:
    """The experiment that the command line names.

    Raises:
        RecipeError: no such experiment, or no such variant of it.
    """
    known = experiments()
    if name not in known:
        raise RecipeError(f"no experiment {name!r}; expected one of {', '.join(known)}")
    experiment = known[name]
    variant = next(iter(experiment.variants)) if variant is None else variant
    if variant not in experiment.variants:
        raise RecipeError(
            f"experiment {name!r} has no variant {variant!r}; expected one of"
            f" {', '.join(experiment.variants)}"
        )
    return experiment(variant, data_path)


def experiments() -> dict[str, type[Experiment]]:
    """Name → experiment, of every module of this package that defines one."""
    modules = [
        importlib.import_module(f"training.experiments.{module.name}")
        for module in pkgutil.iter_modules(training.experiments.__path__)
    ]
    found = [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]
    return {experiment.name: experiment for experiment in found}


Tell = Callable[[str], None]
