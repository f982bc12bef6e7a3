"""The calendar inside the graph against the calendar outside it."""

import datetime as dt

import holidays
import pytest
import torch

from training.errors import RecipeError
from training.tasks.forecast.calendar import DAY_S, Calendar, holiday_table

EPOCH = dt.date(1970, 1, 1)


def seconds(day: dt.date) -> torch.Tensor:
    return torch.tensor([(day - EPOCH).days * DAY_S])


@pytest.fixture(scope="module")
def calendar() -> Calendar:
    return Calendar("US", DAY_S)


def kind(calendar: Calendar, day: dt.date) -> str:
    return holiday_table("US").names[int(calendar.kinds(seconds(day)))]


def test_table_agrees_with_the_holidays_package_on_every_day(calendar: Calendar) -> None:
    known = holidays.country_holidays("US", years=range(1990, 2051))
    days = [dt.date(1990, 1, 1) + dt.timedelta(n) for n in range(61 * 365 + 15)]
    times = torch.tensor([(day - EPOCH).days * DAY_S for day in days])
    names = holiday_table("US").names
    for day, index in zip(days, calendar.kinds(times).tolist(), strict=True):
        name = names[index]
        is_holiday = bool(name) and not name.startswith(("after ", "before ", "year's end"))
        assert is_holiday == (day in known), (day, name)
        if is_holiday:
            assert name in known[day]


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (dt.date(2015, 11, 26), "Thanksgiving Day"),
        (dt.date(2015, 11, 27), "after Thanksgiving Day"),
        (dt.date(2015, 7, 4), "Independence Day"),
        (dt.date(2015, 7, 3), "Independence Day"),  # observed: the fourth is a Saturday
        (dt.date(2014, 7, 3), "before Independence Day"),
        (dt.date(2015, 12, 29), "year's end"),
        (dt.date(2015, 3, 18), ""),
        (dt.date(1989, 12, 25), ""),  # outside the table
        (dt.date(2051, 12, 25), ""),
    ],
)
def test_days_have_their_kind(calendar: Calendar, day: dt.date, expected: str) -> None:
    assert kind(calendar, day) == expected


def test_any_second_of_a_day_has_the_features_of_its_weekday(calendar: Calendar) -> None:
    monday, sunday = dt.date(2024, 3, 4), dt.date(1969, 12, 28)
    for day, row in ((monday, 0), (sunday, 6)):
        for second in (0, DAY_S - 1):
            features = calendar(seconds(day) + second)[0, :4]
            torch.testing.assert_close(features, calendar.weekday.weight[row])


def test_hours_matter_only_to_series_of_hours() -> None:
    hourly, noon = Calendar(None, 3600), seconds(dt.date(2024, 3, 4)) + DAY_S // 2
    assert hourly.size > Calendar(None, DAY_S).size
    assert not torch.allclose(hourly(noon), hourly(noon + 3600))


def test_an_unknown_country_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError, match="'Atlantis'"):
        holiday_table("Atlantis")
