"""The time column of a table → whole seconds, or the first cell that is not a time.

Times without an offset are read as they are written: the local clock. Times with one (`Z`,
`+01:00`) are read as the service reads them: in UTC where rows are closer than a day, which
daylight-saving time does not touch, and as their dates where rows are whole days apart.
"""

from typing import Final

import numpy as np
import polars as pl

from training.data.table import TextTable, first_true

DAY_S: Final = 86_400
_TIME: Final = (
    r"^([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:[.,]0+)?)?)?"
    r"(?: ?(Z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?))?$"
)
_EXPECTED: Final = (
    "expected one of YYYY-MM-DD, YYYY-MM-DD HH:MM and YYYY-MM-DD HH:MM:SS on every row, perhaps"
    " with Z or an offset: correct it, or delete the row if it is a total or a note"
)


def read_times(table: TextTable, name: str, frequency_s: int) -> np.ndarray:
    """Seconds since 1970 `[N]` of column `name`, in the order of the file.

    Raises:
        DataError: a cell is not a time, or some have an offset and others none.
    """
    cells = table.column(name)
    day, clock, second, offset = (cells.str.extract(_TIME, group) for group in (1, 2, 3, 4))
    written = day + "T" + clock.fill_null("00:00") + ":" + second.fill_null("00")
    times = written.str.strptime(pl.Datetime("us"), "%Y-%m-%dT%H:%M:%S", strict=False)
    place = first_true(times.is_null())
    if place is not None:
        table.refuse(name, place, _EXPECTED)
    time_s = times.dt.epoch("s").to_numpy().astype(np.int64)
    has_offset = offset.is_not_null()
    if not has_offset.any():
        return time_s
    place = first_true(has_offset != has_offset[0])
    if place is not None:
        table.refuse(
            name,
            place,
            f"expected an offset on every row or on none; the first one is {cells[0]!r}: write all"
            " times in UTC",
        )
    return time_s if frequency_s % DAY_S == 0 else time_s - _offset_s(offset)


def _offset_s(offset: pl.Series) -> np.ndarray:
    """`+0130` → 5400; Z and UTC → 0."""
    sign = offset.str.starts_with("-").to_numpy()
    digits = offset.str.replace_all(r"[^0-9]", "")
    hours, minutes = (
        part.cast(pl.Int64, strict=False).fill_null(0).to_numpy()
        for part in (digits.str.slice(0, 2), digits.str.slice(2, 2))
    )
    seconds: np.ndarray = np.where(sign, -1, 1) * (3600 * hours + 60 * minutes)
    return seconds
