"""Data sets by name: where they come from, what their licence says, and where to look for them.

A module of `sets/` that defines `DATASET` is a data set: its file name is its `data.source`.
Nothing is ever downloaded: a file is packaged with the project, or named with `--data`.
"""

import hashlib
import importlib
import pkgutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import training.data.sets
from service.contract.manifest import DataSource
from training.errors import DataError, RecipeError

PACKAGED = Path(__file__).parent / "packaged"


@dataclass(frozen=True)
class Dataset:
    """A data set. `looks_like` ends every error about its file."""

    name: str
    title: str
    licence: str
    note: str
    looks_like: str
    packaged: str | None = None

    def locate(self, data_path: str | None) -> Path:
        """The file or folder to read.

        Raises:
            DataError: nothing is packaged and `--data` was not given, or names nothing.
        """
        if data_path is not None:
            path = Path(data_path)
            if not path.exists():
                raise DataError(f"{path}: no such file; expected {self.looks_like}")
            return path
        if self.packaged is None:
            raise DataError(
                f"data set {self.name!r} is not packaged with the project: pass --data PATH to"
                f" {self.looks_like}"
            )
        return PACKAGED / self.packaged

    @cached_property
    def is_found(self) -> bool:
        return self.packaged is not None and (PACKAGED / self.packaged).exists()

    def source(self, path: Path, num_rows: int) -> DataSource:
        """Provenance for the manifest. Another file than the packaged one has no known licence."""
        is_ours = self.packaged is not None and path == PACKAGED / self.packaged
        if is_ours or self.packaged is None:
            licence, note = self.licence, self.note
        else:
            licence = "not known: a file given with --data"
            note = f"read as {self.name!r} data"
        return DataSource(
            name=self.title, sha256=hash_files(path), rows=num_rows, licence=licence, note=note
        )


def hash_files(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files in the order of their names."""
    digest = hashlib.sha256()
    for part in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(part.read_bytes())
    return digest.hexdigest()


def find_dataset(name: str) -> Dataset:
    """The data set that a recipe's `data.source` names.

    Raises:
        RecipeError: no module of this package has that name.
    """
    known = dataset_names()
    if name not in known:
        raise RecipeError(f"data.source is {name!r}; expected one of {', '.join(known)}")
    dataset = importlib.import_module(f"training.data.sets.{name}").DATASET
    assert isinstance(dataset, Dataset)
    return dataset


def dataset_names() -> list[str]:
    modules = pkgutil.iter_modules(training.data.sets.__path__)
    return sorted(
        module.name
        for module in modules
        if not module.name.startswith("_") and _defines_dataset(module.name)
    )


def _defines_dataset(module: str) -> bool:
    return hasattr(importlib.import_module(f"training.data.sets.{module}"), "DATASET")
