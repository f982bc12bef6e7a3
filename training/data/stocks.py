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
import polars as pl

from service.contract.manifest import ColumnSpec
from training.data.series import Series, SeriesDataset
from training.errors import DataError

_COLUMNS = ["ticker", "date", "adj_close", "index_close", "mentions"]
_COVARIATES = ("index", "mentions")


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
        table = self._read(path, _COLUMNS)
        mine = table.filter(pl.col("ticker") == target).sort("date")
        if mine.height < 2:
            tickers = ", ".join(table["ticker"].unique().sort().to_list()[:12])
            raise DataError(f"{path}: no ticker {target!r}; it has {tickers} …; mend task.target")
        time_s = self._times(mine["date"], path)
        rows = self._grid_rows(time_s, frequency_s, path)
        mentions = np.log1p(self._numbers(mine["mentions"], path))
        known = {
            target: _returns(self._numbers(mine["adj_close"], path)),
            "index": _returns(self._numbers(mine["index_close"], path)),
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
