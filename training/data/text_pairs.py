"""A data set of pairs of texts: what is read, and what shall be written of it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service.contract.manifest import DataSource
from training.data.dataset import Dataset, hash_files
from training.data.labelled_texts import read_filled_lines
from training.errors import DataError

LOOKS_LIKE = "a UTF-8 file with a pair in each line: what is read, a tab, what is written of it"


class Pair(NamedTuple):
    source: str
    target: str
    kind: str = ""
    """By what the card groups them, such as the form in which a date is written."""


@dataclass(frozen=True, kw_only=True)
class TextPairs(Dataset):
    """Made by `generate`, always the same, unless `--data` names a file."""

    language: str
    generate: Callable[[], list[Pair]]

    @property
    def is_found(self) -> bool:
        return True

    def pairs(self, data_path: str | None) -> list[Pair]:
        return self.generate() if data_path is None else read_pairs(self.locate(data_path))

    def source_of(self, pairs: list[Pair], data_path: str | None) -> DataSource:
        """Provenance; of made pairs the hash is that of the pairs themselves."""
        if data_path is not None:
            return DataSource(
                name=self.title,
                sha256=hash_files(self.locate(data_path)),
                rows=len(pairs),
                licence="not known: a file given with --data",
                note=f"read as {self.name!r} data",
            )
        lines = "".join(f"{pair.source}\t{pair.target}\n" for pair in pairs)
        return DataSource(
            name=self.title,
            sha256=hashlib.sha256(lines.encode()).hexdigest(),
            rows=len(pairs),
            licence=self.licence,
            note=self.note,
        )


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file.

    Raises:
        DataError: it cannot be read, or a line is not a pair.
    """
    pairs = []
    for number, line in read_filled_lines(path, LOOKS_LIKE):
        source, _, target = line.partition("\t")
        if not source or not target:
            raise DataError(f"{path}, line {number}: not a pair; expected {LOOKS_LIKE}")
        pairs.append(Pair(source, target))
    if not pairs:
        raise DataError(f"{path}: no pairs; expected {LOOKS_LIKE}")
    return pairs
