"""A stock, the market's index and how often the stock was mentioned, day by day, as returns.

The target that a recipe names is a ticker, and its values are returns in percent: prices themselves
wander, so that a model of prices learns little more than to repeat the last one. Covariates:

    index      the market index's return of the same day, in percent
    mentions   log(1 + mentions) on the trading day before: a day's count holds messages from after
               the close, which nobody had when the day's return was known

Days without trade stay on the grid of days, as missing values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.contract.manifest import ColumnSpec
from training.data.series import Series, SeriesDataset
from training.data.table import TextTable, read_table
from training.data.times import read_times
from training.errors import DataError

_COLUMNS = ["ticker", "date", "adj_close", "index_close", "mentions"]
_COVARIATES = ("index", "mentions")
_FEWEST = 2


@dataclass(frozen=True)
class StockDataset(SeriesDataset):
    """Returns of one ticker out of a table of many."""

    def load(self, path: Path, target: str, covariates: Sequence[str], frequency_s: int) -> Series:
        """`target` is a ticker of the table; `covariates` are of index and mentions.

        Raises:
            DataError: as any series does, or the table does not hold that ticker.
        """
        unknown = sorted(set(covariates) - set(_COVARIATES))
        if unknown:
            raise DataError(
                f"task.covariates names {', '.join(map(repr, unknown))}; data set {self.name!r} has"
                f" {' and '.join(map(repr, _COVARIATES))}"
            )
        self._refuse_names([target, *covariates])
        table = read_table(path, _COLUMNS, self.looks_like)
        mine = table.filter(table.column("ticker") == target)
        if mine.num_rows < _FEWEST:
            tickers = ", ".join(table.column("ticker").drop_nulls().unique().sort()[:12].to_list())
            raise DataError(
                f"{path}: no ticker {target!r}; it has {tickers} …; correct task.target"
            )
        mine = mine.take(np.argsort(read_times(mine, "date", frequency_s), kind="stable"))
        time_s = read_times(mine, "date", frequency_s)
        rows = self._grid_rows(mine, time_s, frequency_s)
        numbers = mine.numbers(["adj_close", "index_close", "mentions"])
        for price in ("adj_close", "index_close"):
            _refuse_below(mine, price, numbers[price] <= 0, "a price above 0")
        _refuse_below(mine, "mentions", numbers["mentions"] < 0, "a count of at least 0")
        mentions = np.log1p(numbers["mentions"])
        known = {
            target: _returns(numbers["adj_close"]),
            "index": _returns(numbers["index_close"]),
            "mentions": np.concatenate([[np.nan], mentions[:-1]]),
        }
        names = [target, *covariates]
        values = np.full((int(rows[-1]) + 1, len(names)), np.nan, dtype=np.float32)
        for index, name in enumerate(names):
            values[rows, index] = known[name]
        grid = time_s[0] + frequency_s * np.arange(len(values), dtype=np.int64)
        return Series(grid, values, self._specs(target, covariates))

    def _specs(self, target: str, covariates: Sequence[str]) -> tuple[ColumnSpec, ...]:
        mine, *others = super()._specs(target, covariates)
        meaning = {"unit": "%", "description": f"return of {target} on the day, logarithmic"}
        return (mine.model_copy(update=meaning), *others)


def _refuse_below(table: TextTable, name: str, is_below: np.ndarray, expected: str) -> None:
    """Logarithms of such values are not numbers."""
    if is_below.any():
        place = int(np.argmax(is_below))
        table.refuse(name, place, f"expected {expected}: correct that cell, or empty it")


def _returns(price: np.ndarray) -> np.ndarray:
    """Logarithmic, in percent; the first day has none."""
    return np.concatenate([[np.nan], 100 * np.diff(np.log(price))])


DATASET = StockDataset(
    name="stocks",
    title="Stocks, S&P 500 and mentions, 2014 to 2016 (StockNet)",
    licence="MIT",
    note=(
        "Daily adjusted prices of 88 stocks with the S&P 500 and the number of tweets that mention"
        " the stock (Xu & Cohen, 2018)."
    ),
    looks_like=(
        "a CSV file (.gz allowed) with the columns ticker, date (YYYY-MM-DD), adj_close,"
        " index_close and mentions, one row for each stock and trading day"
    ),
    time_column="date",
    known={
        "index": ("%", "return of the S&P 500 on the same day"),
        "mentions": ("log(1 + count)", "tweets that mention the stock, on the trading day before"),
    },
)
