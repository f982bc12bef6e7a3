"""Rows of a JSON body to an array. Every refusal names the row."""

import struct
from functools import lru_cache

import numpy as np

from service.api.codec.fields import Row
from service.engine.session.requests import Observations
from service.errors import InvalidInputError

_LARGEST = float(np.finfo(np.float32).max)


def read_rows(columns: tuple[str, ...], rows: list[Row], where: str) -> np.ndarray:
    """Objects or lists → `[T, F]` float32, NaN where a value is missing."""
    known = set(columns)
    values: list[list[float | None]] = []
    for index, row in enumerate(rows):
        if isinstance(row, list):
            if len(row) != len(columns):
                raise InvalidInputError(
                    f"{where}.observations[{index}] has {len(row)} values: expected"
                    f" {len(columns)}, in the order {list(columns)}"
                )
            values.append(row)
        elif known.issuperset(row):
            values.append([row.get(name) for name in columns])
        else:
            raise InvalidInputError(
                f"{where}.observations[{index}] names {sorted(set(row) - known)}: expected columns"
                f" among {list(columns)}"
            )
    if len(values) == 1:
        try:
            packed = _floats(len(columns)).pack(*values[0])
        except (struct.error, OverflowError):  # a value is missing, or too large
            pass
        else:
            return np.frombuffer(packed, np.float32).reshape(1, -1)
    try:
        with np.errstate(over="raise"):
            return np.array(values, dtype=np.float32)  # None becomes NaN
    except FloatingPointError:
        is_beyond = np.abs(np.array(values, dtype=np.float64)) > _LARGEST
        index = int(np.flatnonzero(is_beyond.any(axis=1))[0])
        raise InvalidInputError(
            f"{where}.observations[{index}] holds a value beyond 3.4e38: check its unit"
        ) from None


def read_vector(
    columns: tuple[str, ...], rows: list[Row] | None, text: str | None, where: str
) -> Observations:
    """What a model that writes about vectors is told: one row, the text behind it, or either."""
    if rows is None:
        return Observations(text=text or "")
    if len(rows) != 1:
        raise InvalidInputError(
            f"{where}.observations has {len(rows)} rows: expected the one that is written about"
        )
    return Observations(rows=read_rows(columns, rows, where), text=text or "")


@lru_cache
def _floats(count: int) -> struct.Struct:
    """Packs a row in a quarter of NumPy's time, and refuses what NumPy does."""
    return struct.Struct(f"<{count}f")  # "<": without it, what is too large becomes infinite
