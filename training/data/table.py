"""Tables as people save them: a header, and one row for each time, as text.

Rule 1: what cannot be mistaken is read: a byte order mark, UTF-16, Windows-1252, any line end,
        gzip, columns apart by comma, semicolon, tab or bar, blank lines, decimal commas.
Rule 2: what can be mistaken is refused, with its row, its value and what to do about it.
Rule 3: rows are counted from the first one below the header, blank lines included.
Rule 4: numbers become float32 later, so a value beyond MAX_SIZE is refused here.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
import polars as pl

from training.errors import DataError

MAX_SIZE: Final = 1e30
"""Sums over a window of such values stay within float32, which ends at 3.4e38."""
NOTHING: Final = ("", "NA", "NaN", "nan")
"""What a cell without a value may hold."""

_SEPARATORS: Final = (",", ";", "\t", "|")
_BYTE_ORDER_MARKS: Final = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_GZIP: Final = b"\x1f\x8b"
_SNIFFED_BYTES: Final = 4096
_FEWEST: Final = 2
_GROUPED = r"^[+-]?[1-9][0-9]{0,2},[0-9]{3}$"
"""One comma that may part thousands as well as decimals."""
_PLAIN: Final = "numbers such as 1234.5, without marks between thousands"
_ROW = " row"
"""Name of the column of row numbers; no column of a file has it, since names are stripped."""


@dataclass(frozen=True)
class TextTable:
    """Stripped cells as text, None where there is nothing, beside the numbers of their rows."""

    path: Path
    separator: str
    _cells: pl.DataFrame

    @property
    def num_rows(self) -> int:
        return self._cells.height

    def column(self, name: str) -> pl.Series:
        return self._cells[name]

    def row_number(self, place: int) -> int:
        return int(self._cells[_ROW][place])

    def filter(self, mask: pl.Series) -> "TextTable":
        return TextTable(self.path, self.separator, self._cells.filter(mask))

    def take(self, places: np.ndarray) -> "TextTable":
        return TextTable(self.path, self.separator, self._cells[places])

    def refuse(self, name: str, place: int, why: str) -> NoReturn:
        """Raise the error of one cell, `place` rows below the first."""
        value, row = self._cells[name][place], self._cells[_ROW][place]
        found = f"holds {value!r}" if value is not None else "is empty"
        raise DataError(f"{self.path}, data row {row}: column {name!r} {found}; {why}")

    def numbers(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Float64 values of some columns, NaN where there are none.

        Raises:
            DataError: a cell is not a number, is not finite, or is beyond MAX_SIZE; or decimal
                commas and points are mixed.
        """
        has_commas = self._has_decimal_commas(names)
        return {name: self._numbers(name, has_commas) for name in names}

    def _numbers(self, name: str, has_commas: bool) -> np.ndarray:
        cells = self._cells[name]
        points = cells.str.replace(",", ".", literal=True) if has_commas else cells
        numbers = points.cast(pl.Float64, strict=False)
        # A NaN that is spelled in another way than NOTHING may be the trace of a fault.
        place = first_true((numbers.is_null() | numbers.is_nan()) & cells.is_not_null())
        if place is not None:
            self.refuse(
                name,
                place,
                f"expected {_PLAIN}, without a unit, and nothing where a value is missing: correct"
                " that cell or empty it",
            )
        place = first_true(numbers.abs() > MAX_SIZE)
        if place is not None:
            self.refuse(
                name,
                place,
                f"expected finite numbers of at most {MAX_SIZE:g} in size, since models compute in"
                " float32: correct that cell, or empty it where the value is missing",
            )
        values: np.ndarray = numbers.fill_null(float("nan")).to_numpy()
        return values

    def _has_decimal_commas(self, names: Sequence[str]) -> bool:
        """True where numbers are written as 1,5. A whole file has one decimal mark."""
        commas = {n: self._cells[n].str.count_matches(",", literal=True) for n in names}
        if not any((count > 0).any() for count in commas.values()):
            return False
        for name, count in commas.items():
            place = first_true(count > 1)
            if place is not None:
                self.refuse(name, place, f"expected {_PLAIN}")
        name, place = next((n, at) for n in names if (at := first_true(commas[n] > 0)) is not None)
        comma, row = self._cells[name][place], self.row_number(place)
        for other in names:
            at = first_true(self._cells[other].str.contains(".", literal=True))
            if at is not None:
                self.refuse(
                    other,
                    at,
                    f"expected {_PLAIN}; data row {row} has a comma in {comma!r}, and a file has"
                    " one decimal mark",
                )
        with_comma = pl.concat([self._cells[n].filter(count > 0) for n, count in commas.items()])
        if self.separator != ";" and with_comma.str.contains(_GROUPED).all():
            self.refuse(
                name, place, f"expected {_PLAIN}: this comma may be a decimal one or part thousands"
            )
        return True


def read_table(path: Path, names: Sequence[str], looks_like: str) -> TextTable:
    """The columns `names` of a table; `looks_like` ends every error about the file as a whole.

    Raises:
        DataError: not a text file, not a table, or a column is missing or there twice.
    """
    text = _decode(_read(path, looks_like), path, looks_like)
    text, separator = _find_separator(text, names)
    header = [name.strip() for name in _header(text, separator)]
    if not any(header):
        raise DataError(f"{path}: cannot be read as CSV (it is empty); expected {looks_like}")
    _refuse_columns(header, names, path, looks_like)
    try:
        table = pl.read_csv(
            text.encode(),
            separator=separator,
            infer_schema=False,
            new_columns=[str(place) for place in range(len(header))],
        )
    except pl.exceptions.PolarsError as error:
        _refuse_long_row(text, separator, path)
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: cannot be read as CSV ({reason}); expected {looks_like}"
        ) from None
    columns = {name: str(header.index(name)) for name in names}
    table = table.with_columns(pl.all().str.strip_chars())
    table = table.with_columns(pl.when(~pl.all().is_in(NOTHING)).then(pl.all()))
    table = table.with_row_index(_ROW, offset=1)
    table = table.filter(pl.any_horizontal(pl.exclude(_ROW).is_not_null()))
    if table.height < _FEWEST:
        raise DataError(f"{path}: {table.height} rows; expected {looks_like}")
    return TextTable(
        path, separator, table.select(_ROW, **{name: pl.col(at) for name, at in columns.items()})
    )


def first_true(mask: pl.Series) -> int | None:
    """The place of the first True; null counts as False."""
    places = mask.fill_null(value=False).arg_true()
    return int(places[0]) if len(places) else None


def _read(path: Path, looks_like: str) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(_GZIP) else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected {looks_like}") from None


def _decode(data: bytes, path: Path, looks_like: str) -> str:
    """Text with line feeds only. What is not UTF-8 is Windows-1252, which extends Latin-1."""
    marks = [encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if data.startswith(mark)]
    if not marks and b"\0" in data[:_SNIFFED_BYTES]:
        raise DataError(
            f"{path}: not a text file (it may be a workbook): save it as CSV; expected {looks_like}"
        )
    for encoding in marks or ("utf-8", "cp1252", "latin-1"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")
    raise DataError(f"{path}: not valid {marks[0]}, as its first bytes say; expected {looks_like}")


def _find_separator(text: str, names: Sequence[str]) -> tuple[str, str]:
    """The text from its header on, and what parts its columns.

    A first line `sep=;` is Excel's. Otherwise it is what parts the header into the wanted names, or
    else into the most names.
    """
    told = re.match(r"sep=(.)\n", text)
    if told and told[1] in _SEPARATORS:
        return text[told.end() :].lstrip("\n"), told[1]

    def fit(separator: str) -> tuple[int, int]:
        header = [name.strip() for name in _header(text, separator)]
        return len(set(names) & set(header)), len(header)

    return text, max(_SEPARATORS, key=fit)


def _header(text: str, separator: str) -> list[str]:
    return next(csv.reader(io.StringIO(text), delimiter=separator), [])


def _refuse_columns(header: list[str], names: Sequence[str], path: Path, looks_like: str) -> None:
    missing = [name for name in dict.fromkeys(names) if name not in header]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, missing))}; it has"
            f" {', '.join(header[:12])}{'…' if len(header) > 12 else ''}. Expected {looks_like}"
        )
    twice = [name for name in dict.fromkeys(names) if header.count(name) > 1]
    if twice:
        raise DataError(
            f"{path}: the header names column {', '.join(map(repr, twice))} more than once;"
            " expected each name once: rename one of them"
        )


def _refuse_long_row(text: str, separator: str, path: Path) -> None:
    """Raise the error of the first row with more cells than the header, if there is one."""
    rows = csv.reader(io.StringIO(text), delimiter=separator)
    width = len(next(rows))
    for number, row in enumerate(rows, 1):
        if len(row) > width:
            raise DataError(
                f"{path}, data row {number}: {len(row)} cells, {separator.join(row)[:80]!r};"
                f" expected {width}, as in the header: put cells that hold {separator!r} into"
                " double quotes, or part the columns with semicolons where commas are decimal"
            )
