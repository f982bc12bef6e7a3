"""A data set that is one text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.data.dataset import Dataset
from training.errors import DataError

_FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class PlainText(Dataset):
    """`read` raises DataError for a file that does not fit."""

    language: str
    read: Callable[[Path], str]
    weights_licence: str
    weights_note: str = ""


def read_text(path: Path, looks_like: str) -> str:
    """A UTF-8 file as it is, without a byte order mark; every line end becomes a line feed."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {number}: not UTF-8 ({error.reason}): save the file as UTF-8; expected"
            f" {looks_like}"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected {looks_like}") from None
    if len(set(text)) < _FEWEST:
        raise DataError(f"{path}: fewer than two different characters; expected {looks_like}")
    return text
