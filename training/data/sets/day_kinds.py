"""The kind of each day, told from its date: the truth for a model that sees no dates."""

import datetime as dt
from typing import Final

import holidays
import numpy as np

from training.errors import RecipeError

DAY_KINDS: Final = ("workday", "Saturday", "Sunday or holiday")
_SATURDAY, _SUNDAY = 5, 6


def day_kinds(time_s: np.ndarray, country: str) -> np.ndarray:
    """`time_s[N]` (seconds since 1970 of the local clock) → `[N]` places in DAY_KINDS.

    A holiday is one wherever it falls; the day that it is observed on is one too.

    Raises:
        RecipeError: the holidays package does not know the country.
    """
    days = [dt.date(1970, 1, 1) + dt.timedelta(int(time) // 86_400) for time in time_s]
    years = range(days[0].year, days[-1].year + 2)  # a New Year may be observed the year before
    try:
        known = holidays.country_holidays(country, years=years)
    except NotImplementedError:
        raise RecipeError(
            f"task.holidays is {country!r}; expected a country code of the holidays package, such"
            " as 'US'"
        ) from None
    return np.array([_kind(day, day in known) for day in days], dtype=np.int64)


def _kind(day: dt.date, is_holiday: bool) -> int:
    if is_holiday or day.weekday() == _SUNDAY:
        return 2
    return 1 if day.weekday() == _SATURDAY else 0
