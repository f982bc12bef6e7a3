"""Tables of observations at a fixed rate: read, checked, and laid on a gap-free grid of times.

Rule 1: a row that the file leaves out becomes a row of NaN, so that row n lies at start + n × rate.
Rule 2: an empty cell is missing (NaN), never zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from service.contract.manifest import ColumnSpec
from training.data.dataset import Dataset
from training.errors import DataError

_TIME_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M")


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
            DataError: not a CSV, a column is missing or not numeric, times that cannot be read, are
                repeated, or do not lie `frequency_s` apart.
        """
        names = [target, *covariates]
        table = self._read(path, [self.time_column, *names])
        time_s = self._times(table[self.time_column], path)
        rows = self._grid_rows(time_s, frequency_s, path)
        values = np.full((int(rows[-1]) + 1, len(names)), np.nan, dtype=np.float32)
        for index, name in enumerate(names):
            values[rows, index] = self._numbers(table[name], path)
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

    def _read(self, path: Path, names: list[str]) -> pl.DataFrame:
        try:
            table = pl.read_csv(path, infer_schema=False, null_values=["", "NA", "NaN", "nan"])
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"{path}: cannot be read as CSV ({str(error).splitlines()[0]}); expected"
                f" {self.looks_like}"
            ) from None
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise DataError(
                f"{path}: no column {', '.join(map(repr, missing))}; it has"
                f" {', '.join(table.columns[:12])}{'…' if table.width > 12 else ''}. Expected"
                f" {self.looks_like}"
            )
        if table.height < 2:
            raise DataError(f"{path}: {table.height} rows; expected {self.looks_like}")
        return table.select(names)

    def _times(self, column: pl.Series, path: Path) -> np.ndarray:
        for written in _TIME_FORMATS:
            times = column.str.strptime(pl.Datetime("us"), written, strict=False)
            if times.null_count() == 0:
                return times.dt.epoch("s").to_numpy().astype(np.int64)
        raise DataError(
            f"{path}: column {self.time_column!r} holds {column[0]!r}; expected one of the forms"
            f" {', '.join(_TIME_FORMATS)} on every row"
        )

    def _grid_rows(self, time_s: np.ndarray, frequency_s: int, path: Path) -> np.ndarray:
        offsets = time_s - time_s[0]
        off_grid = np.flatnonzero(offsets % frequency_s)
        if len(off_grid):
            raise DataError(
                f"{path}: data row {off_grid[0] + 1} lies {offsets[off_grid[0]]} s after the first,"
                f" expected a multiple of {frequency_s} s: mend the times or task.frequency"
            )
        not_later = np.flatnonzero(np.diff(offsets) <= 0)
        if len(not_later):
            raise DataError(
                f"{path}: data row {not_later[0] + 2} is not later than the one before it; expected"
                " times that rise from row to row, each once"
            )
        rows: np.ndarray = offsets // frequency_s
        if rows[-1] + 1 > 10 * len(rows):
            raise DataError(
                f"{path}: more than nine in ten rows are missing at a rate of {frequency_s} s:"
                " task.frequency is wrong"
            )
        return rows

    def _numbers(self, column: pl.Series, path: Path) -> np.ndarray:
        numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
        broken = column.filter(numbers.is_null() & column.is_not_null())
        if len(broken):
            raise DataError(
                f"{path}: column {column.name!r} holds {broken[0]!r}; expected numbers, and nothing"
                " where a value is missing"
            )
        values: np.ndarray = numbers.fill_null(float("nan")).to_numpy()
        return values
