"""One training run on disk, so that it can be resumed, exported again and looked at later.

`runs/<name>/<number>/`: `run.json` (recipe, data, command), one folder for each phase with its
checkpoints and logs, and `weights.pt`, which exists only when the run is complete.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.config import Recipe, parse_recipe
from training.errors import RunError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run lives, and what it is a run of."""

    path: Path
    recipe: Recipe
    data_path: str | None
    command: str

    @classmethod
    def create(cls, runs: Path, recipe: Recipe, data_path: str | None, command: str) -> "RunFolder":
        """A new numbered folder below `runs/<name>`; older runs are never touched."""
        parent = runs / recipe.name
        number = 1 + max((int(p.name) for p in _numbered(parent)), default=0)
        path = parent / f"{number:03d}"
        path.mkdir(parents=True)
        run = cls(path, recipe, data_path, command)
        run._write()
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        try:
            fields: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
            recipe = parse_recipe(fields["recipe"], str(path / "run.json"))
            return cls(path, recipe, fields["data"], fields["command"])
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{path}: neither a bundle nor a run ({error}); expected a bundle's folder with its"
                " version, such as models/transit-ridership/1, or a run that `fit` made, such as"
                " runs/transit-ridership/001"
            ) from None

    @classmethod
    def newest(cls, runs: Path, recipe: Recipe) -> "RunFolder":
        """The run that `--resume` continues; its version may be another, being that of its bundle.

        Raises:
            RunError: there is none, or it is of a recipe that has changed since.
        """
        numbered = _numbered(runs / recipe.name)
        if not numbered:
            raise RunError(f"{runs / recipe.name}: no run to resume; start one without --resume")
        run = cls.open(numbered[-1])
        if run.recipe.model_copy(update={"version": recipe.version}) != recipe:
            raise RunError(
                f"{run.path}: was started with another recipe than the one given; resume it with"
                " the recipe as it was, or start a new run without --resume"
            )
        return run

    def with_version(self, version: str) -> "RunFolder":
        """The same run, whose bundle shall have another version; that is kept in its folder."""
        recipe = self.recipe.model_copy(update={"version": version})
        run = RunFolder(self.path, recipe, self.data_path, self.command)
        run._write()
        return run

    def _write(self) -> None:
        recipe = self.recipe.model_dump(mode="json")
        fields = {"recipe": recipe, "data": self.data_path, "command": self.command}
        (self.path / "run.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")

    @property
    def weights(self) -> Path:
        return self.path / "weights.pt"

    def load_weights(self) -> dict[str, Tensor]:
        if not self.weights.exists():
            raise RunError(f"{self.path}: the run is not finished; continue it with `fit --resume`")
        weights: dict[str, Tensor] = torch.load(self.weights, weights_only=True)
        return weights

    def history(self) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """Phase → metric → `(epoch, value)`: what the loggers of all attempts wrote."""
        return {
            phase.name: _read_logs(phase)
            for phase in sorted(self.path.iterdir())
            if (phase / "logs").is_dir()
        }


def _read_logs(phase: Path) -> dict[str, list[tuple[int, float]]]:
    """A resumed attempt logs its epochs again; the later one counts."""
    found: dict[str, dict[int, float]] = {}
    for log in sorted((phase / "logs").glob("version_*/metrics.csv"), key=_attempt):
        with log.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                for metric in ("train_loss", "val_loss"):
                    if row.get(metric):
                        found.setdefault(metric, {})[int(row["epoch"])] = float(row[metric])
    return {metric: sorted(values.items()) for metric, values in found.items()}


def _attempt(log: Path) -> int:
    return int(log.parent.name.removeprefix("version_"))


def _numbered(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted((p for p in parent.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
