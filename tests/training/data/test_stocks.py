"""Stocks: returns in place of prices, and nothing that was not known on its day."""

from pathlib import Path

import numpy as np
import pytest

from training.data.sets.stocks import DATASET
from training.errors import DataError

DAY_S = 86_400
TABLE = """ticker,date,adj_close,index_close,mentions
MSFT,2015-01-02,50,2000,7
AAPL,2015-01-02,100,2000,3
AAPL,2015-01-05,110,1980,0
AAPL,2015-01-06,99,1980,12
MSFT,2015-01-05,55,1980,8
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "stocks.csv"
    path.write_text(TABLE)
    return path


def test_values_are_returns_of_one_ticker_on_the_grid_of_days(path: Path) -> None:
    series = DATASET.load(path, "AAPL", ("index",), DAY_S)
    percent = 100 * np.log([110 / 100, 99 / 110])
    nan = np.nan
    np.testing.assert_allclose(series.values[:, 0], [nan, nan, nan, *percent], rtol=1e-6)
    fall = 100 * np.log(1980 / 2000)
    np.testing.assert_allclose(series.values[:, 1], [nan, nan, nan, fall, 0], rtol=1e-6)
    assert series.time_s[1] - series.time_s[0] == DAY_S
    assert [(c.name, c.role, c.unit) for c in series.columns] == [
        ("AAPL", "target", "%"),
        ("index", "past", "%"),
    ]


def test_mentions_are_those_of_the_trading_day_before(path: Path) -> None:
    """A count of the day itself holds messages that were written after its close."""
    series = DATASET.load(path, "AAPL", ("mentions",), DAY_S)
    expected = [np.nan, np.nan, np.nan, np.log(4), 0]
    np.testing.assert_allclose(series.values[:, 1], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "covariates", "says"),
    [
        ("TSLA", (), r"no ticker 'TSLA'; it has AAPL, MSFT"),
        ("AAPL", ("volume",), r"covariates names 'volume'; data set 'stocks' has 'index' and"),
    ],
)
def test_what_the_table_does_not_hold_is_refused(path: Path, target, covariates, says) -> None:
    with pytest.raises(DataError, match=says):
        DATASET.load(path, target, covariates, DAY_S)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("110,1980", "0,1980", r"data row 3: column 'adj_close' holds '0'; expected a price above"),
        ("110,1980", "-5,1980", r"data row 3: .*'adj_close' holds '-5'; expected a price above 0"),
        ("110,1980", "inf,1980", r"data row 3: .*'adj_close' holds 'inf'; expected finite"),
        ("110,1980", "110,0", r"data row 3: column 'index_close' holds '0'; expected a price"),
        ("1980,12", "1980,-1", r"data row 4: column 'mentions' holds '-1'; expected a count"),
        ("1980,12", "1980,1e39", r"data row 4: column 'mentions' holds '1e39'; expected finite"),
        ("2015-01-06", "sixth", r"data row 4: column 'date' holds 'sixth'; expected one of"),
    ],
)
def test_a_cell_without_a_logarithm_is_named(path: Path, old: str, new: str, says: str) -> None:
    path.write_text(TABLE.replace(old, new, 1))
    with pytest.raises(DataError, match=says):
        DATASET.load(path, "AAPL", ("index", "mentions"), DAY_S)
