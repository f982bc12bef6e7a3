"""Tables of observations at a fixed rate: read, checked, and laid on a gap-free grid of times.

Rule 1: a row that the file leaves out becomes a row of NaN, so that row n lies at start + n × rate.
Rule 2: an empty cell is missing (NaN), never zero.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from service.contract.manifest import COLUMN_NAME, ColumnSpec
from training.data.dataset import Dataset
from training.data.table import TextTable, read_table
from training.data.times import DAY_S, read_times
from training.errors import DataError, RecipeError


@dataclass(frozen=True, slots=True)
class Series:
    """`values[N, F]` at `time_s[N]` (seconds since 1970 of the local clock); NaN is missing.

    Column 0 is the target.
    """

    time_s: np.ndarray
    values: np.ndarray
    columns: tuple[ColumnSpec, ...]


@dataclass(frozen=True)
class SeriesDataset(Dataset):
    """A CSV file (gzip allowed) with one row for each time. `known` is column → (unit, meaning)."""

    time_column: str = "time"
    known: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def load(self, path: Path, target: str, covariates: Sequence[str], frequency_s: int) -> Series:
        """Read the wanted columns, target first.

        Raises:
            RecipeError: a name that cannot be one of a column of numbers, or is there twice.
            DataError: not a table, a column is missing, a cell is not a finite number, times that
                cannot be read, are repeated, or do not lie `frequency_s` apart.
        """
        names = [target, *covariates]
        self._refuse_names(names)
        table = read_table(path, [self.time_column, *names], self.looks_like)
        time_s = read_times(table, self.time_column, frequency_s)
        rows = self._grid_rows(table, time_s, frequency_s)
        numbers = table.numbers(names)
        values = np.full((int(rows[-1]) + 1, len(names)), np.nan, dtype=np.float32)
        for index, name in enumerate(names):
            values[rows, index] = numbers[name]
        grid = time_s[0] + frequency_s * np.arange(len(values), dtype=np.int64)
        return Series(grid, values, self._specs(target, covariates))

    def _specs(self, target: str, covariates: Sequence[str]) -> tuple[ColumnSpec, ...]:
        return tuple(
            ColumnSpec(
                name=name,
                role="target" if name == target else "past",
                unit=self.known.get(name, ("", ""))[0],
                description=self.known.get(name, ("", ""))[1],
            )
            for name in [target, *covariates]
        )

    def _refuse_names(self, names: Sequence[str]) -> None:
        """Names that could not be columns of numbers, nor of a manifest."""
        for name in names:
            if name == self.time_column:
                raise RecipeError(
                    f"[task] names {name!r}, the column of times, as a column of numbers; expected"
                    f" other columns: the times of data set {self.name!r} are read anyway"
                )
            if not re.fullmatch(COLUMN_NAME, name):
                raise RecipeError(
                    f"[task] names column {name!r}; expected 1 to 64 characters without spaces,"
                    " since clients send them: rename the column, in the file too"
                )
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise RecipeError(
                f"[task] names column {', '.join(map(repr, twice))} more than once; expected each"
                " column once: leave the repeated ones out"
            )

    def _grid_rows(self, table: TextTable, time_s: np.ndarray, frequency_s: int) -> np.ndarray:
        offsets = time_s - time_s[0]
        off_grid = np.flatnonzero(offsets % frequency_s)
        if len(off_grid):
            table.refuse(
                self.time_column,
                int(off_grid[0]),
                f"{offsets[off_grid[0]]} s after the first row, expected a multiple of"
                f" {frequency_s} s: correct the times or task.frequency",
            )
        not_later = np.flatnonzero(np.diff(offsets) <= 0)
        if len(not_later):
            self._refuse_order(table, int(not_later[0]) + 1, frequency_s)
        rows: np.ndarray = offsets // frequency_s
        if rows[-1] + 1 > 10 * len(rows):
            raise DataError(
                f"{table.path}: more than nine in ten rows are missing at a rate of {frequency_s}"
                " s: task.frequency is wrong"
            )
        return rows

    def _refuse_order(self, table: TextTable, place: int, frequency_s: int) -> NoReturn:
        before, time = (table.column(self.time_column)[at] for at in (place - 1, place))
        turned_back = (
            "; where a clock was set back, write the times in UTC or with their offsets"
            if frequency_s < DAY_S
            else ""
        )
        raise DataError(
            f"{table.path}: data row {table.row_number(place)} is not later than the one before it,"
            f" {time!r} after {before!r}; expected times that rise from row to row, each once: sort"
            f" the rows and keep one of each{turned_back}"
        )
