"""Dates as people write them, and as ISO 8601 does: made here, from a seed.

    "the third of march 2019"  →  "2019-03-03"

Days lie between 1900 and 2099. The order, the words and the spelling of a date are drawn for each,
so that what decides a character of the answer may stand anywhere in what was read.
"""

import datetime as dt
from collections.abc import Callable
from typing import Final

import numpy as np

from training.data.text_pairs import LOOKS_LIKE, Pair, TextPairs

NUM_PAIRS: Final = 20_000
_SEED = 311
_FIRST, _LAST = dt.date(1900, 1, 1), dt.date(2099, 12, 31)


def _words(text: str) -> list[str]:
    return text.split()


_MONTHS = _words(
    "january february march april may june july august september october november december"
)
_WEEKDAYS = _words("monday tuesday wednesday thursday friday saturday sunday")
_ONES = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
)
_TENS = _words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
_ORDINALS = _words(
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
    " thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)

_FORMS: Final[dict[str, Callable[[dt.date, bool], str]]] = {
    "the third of march 2019": lambda d, y: f"the {_ordinal(d.day)} of {_month(d)} {_year(d, y)}",
    "3 march 2019": lambda d, y: f"{d.day} {_month(d)} {_year(d, y)}",
    "march 3rd, 2019": lambda d, y: f"{_month(d)} {_nth(d.day)}, {_year(d, y)}",
    "mar 3, 2019": lambda d, y: f"{_month(d)[:3]} {d.day}, {_year(d, y)}",
    "sunday, march third, 2019": lambda d, y: (
        f"{_WEEKDAYS[d.weekday()]}, {_month(d)} {_ordinal(d.day)}, {_year(d, y)}"
    ),
    "in 2019 on the 3rd of march": lambda d, y: (
        f"in {_year(d, y)} on the {_nth(d.day)} of {_month(d)}"
    ),
}


def make_dates(num_pairs: int = NUM_PAIRS, seed: int = _SEED) -> list[Pair]:
    """Always the same for the same seed."""
    rng = np.random.default_rng(seed)
    days = rng.integers(0, (_LAST - _FIRST).days + 1, num_pairs)
    forms = rng.integers(0, len(_FORMS), num_pairs)
    spelled = rng.random(num_pairs) < 0.5
    names = list(_FORMS)
    pairs = []
    for day, form, is_spelled in zip(days.tolist(), forms.tolist(), spelled.tolist(), strict=True):
        date = _FIRST + dt.timedelta(day)
        name = names[form]
        kind = name + (", year in words" if is_spelled else "")
        pairs.append(Pair(_FORMS[name](date, is_spelled), date.isoformat(), kind))
    return pairs


def _month(date: dt.date) -> str:
    return _MONTHS[date.month - 1]


def _ordinal(day: int) -> str:
    if day < len(_ORDINALS):
        return _ORDINALS[day]
    if day == 30:
        return "thirtieth"
    return f"{_TENS[day // 10]}-{_ORDINALS[day % 10]}"


def _nth(day: int) -> str:
    ending = "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def _year(date: dt.date, is_spelled: bool) -> str:
    if not is_spelled:
        return str(date.year)
    century, rest = divmod(date.year, 100)
    if date.year == 2000:
        return "two thousand"
    if century == 20 and rest < 10:
        return f"two thousand and {_ONES[rest]}"
    if rest == 0:
        return f"{_cardinal(century)} hundred"
    return f"{_cardinal(century)} " + (f"oh {_ONES[rest]}" if rest < 10 else _cardinal(rest))


def _cardinal(number: int) -> str:
    if number < len(_ONES):
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")


DATASET = TextPairs(
    name="dates",
    title="Dates in words and in ISO 8601",
    licence="Apache-2.0",
    note="Made by training/data/sets/dates.py from a seed.",
    looks_like=LOOKS_LIKE,
    language="en",
    generate=make_dates,
)
