"""Tables as people save them: what can be read is read, the rest is named by row and value."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.series import Series
from training.data.sets.csv_series import DATASET as CSV
from training.data.table import read_table
from training.errors import DataError, RecipeError

DAY_S, HOUR_S = 86_400, 3600
PLAIN = "time,y,c\n2020-01-01,1.5,10\n2020-01-02,,20\n2020-01-03,-3,30\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def load(path: Path, table: str | bytes, frequency_s: int = DAY_S, *covariates: str) -> Series:
    path.write_bytes(table.encode() if isinstance(table, str) else table)
    return CSV.load(path, "y", covariates, frequency_s)


@pytest.mark.parametrize(
    "table",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        gzip.compress(PLAIN.encode(), mtime=0),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode("utf-8-sig"),
        PLAIN.replace(",", " | ").encode(),
        PLAIN.replace(",", ";").replace(".", ",").encode(),
        PLAIN.replace(",", "\t").replace(".", ",").encode(),
        PLAIN.replace("1.5", '"1,5"').encode(),
        b"sep=;\n" + PLAIN.replace(",", ";").replace(".", ",").encode(),
        (PLAIN + "\n\n  \n").encode(),
        (PLAIN + ",,\n , ,\n").encode(),
        PLAIN.replace("c\n", "c\n\n").encode(),
        ("\n\n" + PLAIN).encode(),
        PLAIN.replace("c\n", "c,Straße\n").replace("10", "10,ü").encode("latin-1"),
        PLAIN.replace(",", " , ").replace("time", '"time"').encode(),
        PLAIN.replace("2020-01-02", "2020-01-02 00:00").encode(),
        PLAIN.replace("2020-01-02", "2020-01-02T00:00:00.000").encode(),
    ],
)
def test_one_table_reads_the_same_however_it_was_saved(path: Path, table: bytes) -> None:
    series = load(path, table, DAY_S, "c")
    expected = np.float32([[1.5, 10], [np.nan, 20], [-3, 30]])
    np.testing.assert_array_equal(series.values, expected)
    assert series.time_s[0] == 18_262 * DAY_S
    assert (np.diff(series.time_s) == DAY_S).all()


def test_column_names_of_windows_files_are_found(path: Path) -> None:
    path.write_bytes("time;Fahrgäste\n2020-01-01;1,5\n2020-01-02;2\n".encode("cp1252"))
    series = CSV.load(path, "Fahrgäste", [], DAY_S)
    np.testing.assert_array_equal(series.values[:, 0], np.float32([1.5, 2]))


def rows(*cells: str) -> str:
    return "time,y\n" + "".join(f"{cell}\n" for cell in cells)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            rows("2020-01-01,1", "2020-01-02,2", "Total,3"),
            r"data row 3: column 'time' holds 'Total'; expected one of .* if it is a total",
        ),
        (
            rows("2020-01-01,1", "2020-01-02,2", ",3"),
            r"data row 3: column 'time' is empty; expected .* delete the row if it is a total",
        ),
        (
            rows("2020-01-01,1", "2020-02-30,2"),
            r"data row 2: column 'time' holds '2020-02-30'; expected one of YYYY-MM-DD",
        ),
        (rows("2020-01-01,1", "", "03.01.2020,2"), r"data row 3: .*holds '03.01.2020'"),
        (rows("2020-01-01,1", "2020-01-02,2 kWh"), r"data row 2: column 'y' holds '2 kWh'"),
        (
            rows("2020-01-01,1", "2020-01-02,1,5"),
            r"data row 2: 3 cells, '2020-01-02,1,5'; expected 2.*semicolons where commas",
        ),
        (
            rows('2020-01-01,"1,234"', '2020-01-02,"9,876"'),
            r"data row 1: column 'y' holds '1,234'; expected .*may be a decimal one or part",
        ),
        (
            rows('2020-01-01,"1,234.5"', "2020-01-02,2"),
            r"data row 1: column 'y' holds '1,234.5'; expected numbers such as 1234.5",
        ),
        (
            "time;y\n2020-01-01;1,5\n2020-01-02;1.500\n",
            r"data row 2: column 'y' holds '1.500'; .*data row 1 has a comma in '1,5'",
        ),
        (
            "time;y\n2020-01-01;1.234.567\n2020-01-02;1\n",
            r"data row 1: column 'y' holds '1.234.567'; expected numbers",
        ),
        (
            "time;y\n2020-01-01;1,5\n2020-01-02;1,234,567\n",
            r"data row 2: column 'y' holds '1,234,567'; expected numbers",
        ),
        ("time,y,y\n2020-01-01,1,2\n2020-01-02,1,2\n", r"names column 'y' more than once"),
        (b"PK\x03\x04\x00\x00 a workbook", r"not a text file.*save it as CSV"),
        (gzip.compress(rows("2020-01-01,1").encode(), mtime=0)[:20], r"cannot be read"),
    ],
)
def test_what_can_be_mistaken_is_named_by_row_and_value(
    path: Path, table: str | bytes, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        load(path, table)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("column", ["y", "c"])
@pytest.mark.parametrize(
    "value", ["inf", "-inf", "Infinity", "1e39", "-1e39", "1e400", "3e38", "-nan", "NAN"]
)
def test_a_value_that_float32_cannot_hold_is_named(
    path: Path, separator: str, column: str, value: str
) -> None:
    cells = {"time": "2020-01-03", "y": "1", "c": "2"} | {column: value}
    table = PLAIN.replace("2020-01-03,-3,30", ",".join(cells.values()))
    with pytest.raises(DataError, match=rf"data row 3: column '{column}' holds '{value}'; expec"):
        load(path, table.replace(",", separator), DAY_S, "c")


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=9), st.sampled_from(",;\t"))
def test_every_number_is_read_as_it_is_or_refused(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], separator: str
) -> None:
    path = tmp_path_factory.mktemp("tables") / "t.csv"
    lines = [f"2020-01-{day:02d}{separator}{value!r}" for day, value in enumerate(values, 1)]
    path.write_text("\n".join([f"time{separator}y", *lines]))
    if max(map(abs, values)) > 1e30:
        with pytest.raises(DataError, match="expected finite numbers"):
            CSV.load(path, "y", [], DAY_S)
    else:
        got = CSV.load(path, "y", [], DAY_S).values[:, 0]
        np.testing.assert_array_equal(got, np.float32(values))


def hours(*times: str) -> str:
    return rows(*(f"{time},{value}" for value, time in enumerate(times)))


@pytest.mark.parametrize(
    "times",
    [
        ("2020-10-25T00:00:00Z", "2020-10-25T01:00:00Z", "2020-10-25T02:00:00Z"),
        ("2020-10-25 00:00 UTC", "2020-10-25 01:00 UTC", "2020-10-25 02:00 UTC"),
        ("2020-10-25T02:00+02:00", "2020-10-25T02:00+01:00", "2020-10-25T03:00+01:00"),
        ("2020-10-25 02:00:00+0200", "2020-10-25 02:00:00+0100", "2020-10-25 03:00:00+0100"),
        ("2020-10-24T19:30-04:30", "2020-10-24T20:30-04:30", "2020-10-24T21:30-04:30"),
    ],
)
def test_hours_with_an_offset_are_read_in_utc_as_the_service_does(
    path: Path, times: tuple[str, ...]
) -> None:
    """The clocks were set back in that night: with offsets, no hour is there twice."""
    series = load(path, hours(*times), HOUR_S)
    np.testing.assert_array_equal(series.values[:, 0], [0, 1, 2])
    assert series.time_s[0] == int(np.datetime64("2020-10-25T00:00", "s").astype(np.int64))


def test_days_with_an_offset_are_their_dates(path: Path) -> None:
    series = load(path, hours("2020-03-28T00:00+01:00", "2020-03-29T00:00+01:00"))
    assert str(series.time_s[0].astype("M8[s]").astype("M8[D]")) == "2020-03-28"
    summer = load(path, hours("2020-03-29T00:00+01:00", "2020-03-30T00:00+02:00"))
    assert len(summer.values) == 2


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (
            ("2020-10-25 01:00", "2020-10-25 02:00", "2020-10-25 02:00", "2020-10-25 03:00"),
            r"data row 3 is not later than .* '2020-10-25 02:00' after '2020-10-25 02:00'"
            r".*set back, write the times in UTC or with their offsets",
        ),
        (("2020-01-01 01:00", "2020-01-01 00:00"), r"data row 2 is not later .*sort the rows"),
        (
            ("2020-01-01 01:00", "2020-01-01 02:00Z"),
            r"data row 2: .*'2020-01-01 02:00Z'; expected an offset on every row or on none",
        ),
        (
            ("2020-01-01 01:00", "2020-01-01 02:30"),
            r"data row 2: .*'2020-01-01 02:30'; 5400 s after the first row, expected a multiple",
        ),
        (("2020-01-01 01:00", "2020-01-01 24:00"), r"data row 2: .*holds '2020-01-01 24:00'"),
    ],
)
def test_hours_that_are_not_clear_are_named(path: Path, times: tuple[str, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(path, hours(*times), HOUR_S)


@pytest.mark.parametrize(
    ("target", "covariates", "says"),
    [
        ("time", [], r"names 'time', the column of times, as a column of numbers"),
        ("y", ["c", "time"], r"names 'time', the column of times"),
        ("y", ["c", "c"], r"names column 'c' more than once"),
        ("y", ["a column"], r"names column 'a column'; expected 1 to 64 characters without"),
        ("", [], r"names column ''; expected 1 to 64 characters"),
    ],
)
def test_names_that_cannot_be_columns_of_numbers_are_refused(
    path: Path, target: str, covariates: list[str], says: str
) -> None:
    path.write_text(PLAIN)
    with pytest.raises(RecipeError, match=says):
        CSV.load(path, target, covariates, DAY_S)


def test_rows_are_counted_below_the_header_with_blank_ones(path: Path) -> None:
    path.write_text("\ufefftime;y\n\n2020-01-01;x\n2020-01-02;2\n")
    table = read_table(path, ["time", "y"], "a table")
    assert (table.num_rows, table.row_number(0), table.separator) == (2, 2, ";")
    with pytest.raises(DataError, match=r"data row 2: column 'y' holds 'x'"):
        table.numbers(["y"])
