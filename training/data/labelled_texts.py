"""Labelled texts: what a text data set hands out, and how its rows are divided.

Rule 1: which part a text belongs to depends on the text alone. Two copies of one text, be they
        typed with other spaces or capitals, never lie on both sides of a division.
Rule 2: the held-out part is for the card. Tokenizers, training, stopping and calibration never
        see it.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from training.data.dataset import Dataset
from training.errors import DataError

Part = Literal["training", "validation", "held out"]
PARTS: tuple[Part, ...] = ("training", "validation", "held out")


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts and the index of each one's label `[N]`."""

    texts: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> "LabelledTexts":
        return LabelledTexts([self.texts[row] for row in rows], self.labels[rows])


@dataclass(frozen=True, kw_only=True)
class TextDataset(Dataset):
    """A data set of labelled texts. `read` raises DataError for a file that does not fit."""

    labels: tuple[str, ...]
    language: str
    read: Callable[[Path], LabelledTexts]
    weights_licence: str
    weights_note: str = ""


def divide(
    texts: LabelledTexts, held_out_share: float, validation_share: float
) -> dict[Part, LabelledTexts]:
    """Every text in exactly one part; `validation_share` is of all texts."""
    places = np.array([_place(text) for text in texts.texts])
    edges = np.array([held_out_share, held_out_share + validation_share])
    part = np.searchsorted(edges, places, side="right")
    names: tuple[Part, ...] = ("held out", "validation", "training")
    return {name: texts.take(np.flatnonzero(part == n)) for n, name in enumerate(names)}


def read_lines(path: Path, looks_like: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a plain or gzipped UTF-8 file, with their ends.

    Only a line feed ends a line: texts may hold every other character that Unicode calls a break.
    A byte order mark before the first line is skipped.
    """
    try:
        open_bytes = gzip.open if path.suffix == ".gz" else open
        with open_bytes(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 ({error.reason}): save the file as UTF-8; expected"
            f" {looks_like}"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected {looks_like}") from None


def read_filled_lines(path: Path, looks_like: str) -> Iterator[tuple[int, str]]:
    """Lines without their ends; blank ones, such as the last of many files, are left out."""
    for number, line in read_lines(path, looks_like):
        if line.strip():
            yield number, line.rstrip("\r\n")


def read_table(
    path: Path, columns: tuple[str, ...], looks_like: str
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Numbered rows of a tab-separated file with a header, where nothing is quoted."""
    lines = read_filled_lines(path, looks_like)
    _, header = next(lines, (1, ""))
    if tuple(header.split("\t")) != columns:
        raise DataError(f"{path}: its first line is {header[:80]!r}; expected {looks_like}")
    for number, line in lines:
        cells = tuple(line.split("\t"))
        if len(cells) != len(columns):
            raise DataError(
                f"{path}, line {number}: {len(cells)} columns, not {len(columns)};"
                f" expected {looks_like}"
            )
        yield number, cells


def collect(
    rows: Iterator[tuple[int, str, str]], written: tuple[str, ...], path: Path, looks_like: str
) -> LabelledTexts:
    """Rows `(line, text, label as written)` → texts; rows without any text are left out.

    `written` gives the label as the file writes it, in the order of the data set's labels.
    """
    index = {label: n for n, label in enumerate(written)}
    texts, labels = [], []
    for number, text, label in rows:
        if label not in index:
            raise DataError(
                f"{path}, line {number}: label {label[:40]!r}, not one of {', '.join(written)};"
                f" expected {looks_like}"
            )
        if text.strip():
            texts.append(text.strip())
            labels.append(index[label])
    if len(set(labels)) < len(written):
        raise DataError(f"{path}: texts of every label are needed; expected {looks_like}")
    return LabelledTexts(texts, np.array(labels, dtype=np.int64))


def _place(text: str) -> float:
    """Where in [0, 1) a text falls: evenly spread, and the same on every machine."""
    plain = " ".join(text.lower().split())
    digest = hashlib.blake2b(plain.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
