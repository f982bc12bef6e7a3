"""Calendar features of any day, computed inside the graph from seconds since 1970.

Axis legend: B rows, T steps, K days or steps looked at.

Weekday, hour and season of the year are integer arithmetic on the time, exact for any date. Public
holidays are a table over 1990–2050 that becomes an initialiser; days outside it count as ordinary.
Times are read as local wall-clock: no time zone is applied.
"""

import datetime as dt
import math
from dataclasses import dataclass
from functools import lru_cache

import holidays
import numpy as np
import torch
from torch import Tensor, nn

from training.errors import RecipeError

DAY_S = 86_400
FIRST_YEAR, LAST_YEAR = 1990, 2050
_YEAR_S = 31_556_952  # the mean Gregorian year
_THURSDAY = 3  # 1970-01-01
_HARMONICS = (1, 2, 3)
_WEEKDAY_SIZE, _HOLIDAY_SIZE = 4, 8


@dataclass(frozen=True)
class HolidayTable:
    """`kinds[D]`: 0 for an ordinary day, else an index into `names`; day 0 is 1990-01-01."""

    names: tuple[str, ...]
    kinds: np.ndarray

    @property
    def first_day(self) -> int:
        """Days since 1970 of the table's first entry."""
        return (dt.date(FIRST_YEAR, 1, 1) - dt.date(1970, 1, 1)).days


@lru_cache
def holiday_table(country: str) -> HolidayTable:
    """Every day's kind: a holiday, the day before or after one, year's end, or ordinary.

    The day that a weekend holiday is observed on is the same kind as the holiday itself, the
    weekday tells them apart. A holiday goes before its neighbours.

    Raises:
        RecipeError: the holidays package does not know the country.
    """
    days = [
        dt.date(FIRST_YEAR, 1, 1) + dt.timedelta(n)
        for n in range((dt.date(LAST_YEAR, 12, 31) - dt.date(FIRST_YEAR, 1, 1)).days + 1)
    ]
    try:
        known = holidays.country_holidays(country, years=range(FIRST_YEAR - 1, LAST_YEAR + 2))
    except NotImplementedError:
        raise RecipeError(
            f"task.holidays is {country!r}; expected a country code of the holidays package, such"
            " as 'US', or leave it out"
        ) from None
    named = {day: sorted(names.split("; "))[0] for day, names in known.items()}
    named = {day: name.removesuffix(" (observed)") for day, name in named.items()}
    kinds = []
    for day in days:
        before, after = day - dt.timedelta(1), day + dt.timedelta(1)
        if day in named:
            kinds.append(named[day])
        elif before in named:
            kinds.append(f"after {named[before]}")
        elif after in named:
            kinds.append(f"before {named[after]}")
        elif (day.month, day.day) >= (12, 23):
            kinds.append("year's end")
        else:
            kinds.append("")
    names = ("", *sorted(set(kinds) - {""}))
    index = {name: i for i, name in enumerate(names)}
    return HolidayTable(names, np.array([index[kind] for kind in kinds], dtype=np.uint8))


class Calendar(nn.Module):
    """`time_s[…]` int64 → `[…, size]` features and `[…]` holiday kinds, weights shared by all."""

    table: Tensor

    def __init__(self, country: str | None, frequency_s: int) -> None:
        super().__init__()
        found = holiday_table(country) if country else HolidayTable(("",), np.zeros(1, np.uint8))
        self.first_day = found.first_day
        self.num_kinds = len(found.names)
        # Not persistent: weights of a run stay valid when the holidays package is updated.
        self.register_buffer("table", torch.from_numpy(found.kinds.copy()), persistent=False)
        self.weekday = nn.Embedding(7, _WEEKDAY_SIZE)
        self.holiday = nn.Embedding(self.num_kinds, _HOLIDAY_SIZE)
        nn.init.normal_(self.holiday.weight, std=0.3)
        self.has_hours = frequency_s < DAY_S
        self.size = _WEEKDAY_SIZE + _HOLIDAY_SIZE + 2 * len(_HARMONICS) * (1 + self.has_hours)

    def forward(self, time_s: Tensor) -> Tensor:
        day = torch.div(time_s, DAY_S, rounding_mode="floor")
        weekday = torch.remainder(day + _THURSDAY, 7)
        parts = [self.weekday(weekday), self.holiday(self.kinds(time_s))]
        parts.append(_waves(torch.remainder(time_s, _YEAR_S), _YEAR_S))
        if self.has_hours:
            parts.append(_waves(torch.remainder(time_s, DAY_S), DAY_S))
        return torch.cat(parts, dim=-1)

    def kinds(self, time_s: Tensor) -> Tensor:
        """Index of the day's kind, 0 where the day is ordinary or outside the table."""
        day = torch.div(time_s, DAY_S, rounding_mode="floor") - self.first_day
        size = self.table.shape[0]
        inside = (day >= 0) & (day < size)
        kinds = self.table[day.clamp(0, size - 1)].to(torch.int64)
        return torch.where(inside, kinds, torch.zeros_like(kinds))


def _waves(position_s: Tensor, period_s: int) -> Tensor:
    """Sines and cosines. The remainder is taken on integers: float32 cannot hold a time."""
    phase = position_s.to(torch.float32).unsqueeze(-1) * (2 * math.pi / period_s)
    angles = torch.cat([phase * k for k in _HARMONICS], dim=-1)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
