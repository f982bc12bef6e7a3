"""Recipes: everything that decides what a training run makes, in one typed TOML file.

Rule 1: unknown keys are errors, so that a misspelt option never trains a different model.
Rule 2: the `[task]` table belongs to the task named by its `kind`, which checks it itself.
Rule 3: a recipe holds no path of a machine; where the data lie is said on the command line.
Rule 4: an option that comes later has a default that changes nothing, so that a recipe of an older
        bundle still makes the same model.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.manifest import ModelName, ModelVersion
from training.errors import RecipeError


class Section(BaseModel):
    """A table of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


class DataConfig(Section):
    """Which data set; `python -m training datasets` lists the names."""

    source: str


class CellConfig(Section):
    """The recurrent stack. `kind` is the name of a module in `training/cells/`."""

    kind: str
    hidden_size: int = Field(ge=1, le=4096)
    num_layers: int = Field(default=1, ge=1, le=16)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Between layers."""
    residual: bool = False
    """Each layer from the second on adds to what stands below it, in place of replacing it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """`[cell.options]`: what only this kind knows; its module checks it."""


class FitConfig(Section):
    """Optimisation. Epoch counts are upper limits when `patience` is set."""

    max_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    schedule: Annotated[str, Field(pattern="^(constant|cosine)$")] = "constant"
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; the norms before and after are in the run's logs."""
    window_size: int | None = Field(default=None, ge=1)
    """Steps that a gradient goes back (truncated BPTT); None: all of them."""
    shifting_size: int | None = Field(default=None, ge=1)
    """Steps from one update to the next, window_size where left out."""
    patience: int | None = Field(default=None, ge=1)
    averaging_decay: float | None = Field(default=None, gt=0, lt=1)
    refit_on_validation: bool = False
    """Train anew on training and validation rows for as many epochs as were best."""
    num_threads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _cosine_runs_to_its_end(self) -> Self:
        if self.schedule == "cosine" and self.patience is not None:
            raise ValueError("schedule 'cosine' needs all its epochs: leave out patience")
        return self

    @model_validator(mode="after")
    def _windows_leave_no_gap(self) -> Self:
        if self.shifting_size is not None and self.shifting_size > (self.window_size or 0):
            raise ValueError(
                f"shifting_size {self.shifting_size} needs a window_size at least as large: steps"
                " between two windows would never be learnt from"
            )
        return self


class Recipe(Section):
    """One model of one task. `task` is checked by the task that its `kind` names."""

    name: ModelName
    version: ModelVersion
    title: str
    description: str
    seed: int = Field(ge=0)
    data: DataConfig
    task: dict[str, Any]
    cell: CellConfig
    fit: FitConfig
    compatible_with: tuple[ModelVersion, ...] = ()
    """Versions whose states mean the same to these weights, as where only what stands behind the
    cells was trained anew: their sessions may be handed over by `carry`."""

    @property
    def kind(self) -> str:
        return str(self.task.get("kind"))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: no such file, not TOML, or a key that is missing, unknown or out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path}: cannot be read ({error}); expected a TOML file such as"
            " training/recipes/transit-ridership.toml"
        ) from None
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from None
    return parse_recipe(fields, str(path))


def parse_recipe(fields: dict[str, Any], where: str) -> Recipe:
    """Check the fields of a recipe; `where` is how messages call it."""
    return parse_section(Recipe, fields, where)


def parse_section(section: type[SectionT], fields: dict[str, Any], where: str) -> SectionT:
    """Check one table and say every problem in terms of the file that the user wrote."""
    try:
        return section.model_validate(fields)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'recipe'}:"
            f" {problem['msg'].removeprefix('Value error, ')}"
            + (f" (got {problem['input']!r})" if problem["type"] != "missing" else "")
            for problem in error.errors(include_url=False)
        ]
        raise RecipeError(f"{where}: " + "; ".join(problems)) from None
