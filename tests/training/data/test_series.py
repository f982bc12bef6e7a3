"""Series files: what is accepted, how gaps are laid out, and what errors say."""

from pathlib import Path

import numpy as np
import pytest

from training.data.dataset import dataset_names, find_dataset
from training.data.series import Series
from training.data.sets.chicago import DATASET as CHICAGO
from training.data.sets.csv_series import DATASET as CSV
from training.data.windows import Windows, truths_ahead
from training.errors import DataError, RecipeError

DAY_S = 86_400


def load(path: Path, text: str, covariates: tuple[str, ...] = ()) -> Series:
    path.write_text(text)
    return CSV.load(path, "y", covariates, DAY_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def test_packaged_ridership_is_complete_and_daily() -> None:
    series = CHICAGO.load(CHICAGO.locate(None), "ridership", ["temp_max"], DAY_S)
    assert series.values.shape == (5698, 2)
    assert np.isfinite(series.values).all()
    assert (np.diff(series.time_s) == DAY_S).all()
    assert str(series.time_s[0].astype("M8[s]").astype("M8[D]")) == "2001-01-22"
    assert series.values[0, 0] == np.float32(15.732)
    assert [column.role for column in series.columns] == ["target", "past"]


def test_a_left_out_day_becomes_a_missing_row(path: Path) -> None:
    series = load(path, "time,y\n2020-01-01,1\n2020-01-02,2\n2020-01-04,4\n")
    np.testing.assert_array_equal(series.values[:, 0], np.float32([1, 2, np.nan, 4]))


def test_an_empty_cell_is_missing_not_zero(path: Path) -> None:
    series = load(path, "time,y,c\n2020-01-01,,3\n2020-01-02,2,NA\n", ("c",))
    np.testing.assert_array_equal(series.values, np.float32([[np.nan, 3], [2, np.nan]]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time,z\n2020-01-01,1\n2020-01-02,1\n", r"no column 'y'; it has time, z.*a CSV file"),
        ("time,y\n2020-01-01,1\n2020-01-02,many\n", r"'y' holds 'many'; expected numbers"),
        ("time,y\n01.02.2020,1\n02.02.2020,1\n", r"'time' holds '01.02.2020'; expected one of"),
        ("time,y\n2020-01-02,1\n2020-01-01,1\n", r"row 2 is not later than the one before"),
        ("time,y\n2020-01-01,1\n2020-01-01,1\n", r"row 2 is not later than the one before"),
        ("time,y\n2020-01-01 00:00,1\n2020-01-01 06:00,1\n", r"21600 s.*multiple of 86400 s"),
        ("time,y\n2020-01-01,1\n", r"1 rows; expected a CSV file"),
        ("time,y\n2000-01-01,1\n2020-01-01,1\n", r"task.frequency is wrong"),
        ("", r"cannot be read as CSV"),
    ],
)
def test_a_file_that_does_not_fit_says_why(path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(path, text)


def test_data_that_are_nowhere_say_what_to_pass() -> None:
    with pytest.raises(DataError, match=r"--data PATH to a CSV file"):
        CSV.locate(None)
    with pytest.raises(DataError, match=r"nowhere.csv: no such file; expected a CSV file"):
        CSV.locate("nowhere.csv")


def test_another_file_than_the_packaged_one_has_no_known_licence(path: Path) -> None:
    path.write_text("date,ridership\n")
    assert CHICAGO.source(CHICAGO.locate(None), 5698).licence == "MIT"
    assert "not known" in CHICAGO.source(path, 1).licence


def test_unknown_data_sets_are_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'madrid'; expected one of .*chicago"):
        find_dataset("madrid")
    assert {"chicago", "csv_series"} <= set(dataset_names())


def test_truths_lie_ahead_and_inside_the_counted_rows_only() -> None:
    target = np.arange(10, dtype=np.float32)
    ahead = truths_ahead(target, 3, range(4, 8))
    nan = np.nan
    np.testing.assert_array_equal(ahead[2], [nan, 4, 5])
    np.testing.assert_array_equal(ahead[5], [6, 7, nan])
    np.testing.assert_array_equal(ahead[9], [nan, nan, nan])


def test_windows_never_show_rows_past_the_counted_ones() -> None:
    values = np.arange(100, dtype=np.float32)[:, None]
    series = Series(np.arange(100) * DAY_S, values, ())
    windows = Windows(series, 20, 7, 5, range(60))
    last_rows = [windows[i][0][-1, 0].item() for i in range(len(windows))]
    truths = [windows[i][2].nan_to_num(0).max().item() for i in range(len(windows))]
    assert max(last_rows) == max(truths) == 59
