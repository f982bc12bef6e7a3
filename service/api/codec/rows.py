"""Rows of a JSON body to an array. Every refusal names the row."""

import struct
from collections.abc import Sequence
from functools import lru_cache
from math import isfinite

import numpy as np
from numpy import vdot  # the one product that does not warn where it overflows

from service.api.codec.fields import Row
from service.engine.session.requests import Observations
from service.errors import InvalidInputError

LARGEST = 1e30
"""Of a value, as in training. A graph's arithmetic must not overflow: a state that holds what is
near the end of float32 would make every later step infinite."""


def are_beyond(values: np.ndarray) -> np.ndarray:
    """Which values are too large, infinity included; NaN is a missing value."""
    beyond: np.ndarray = np.abs(values) > LARGEST
    return beyond


def has_beyond(values: np.ndarray) -> bool:
    """Whether `are_beyond` finds any."""
    if values.dtype == np.float32 and isfinite(vdot(values, values)):
        return False  # then none is near `LARGEST`
    return bool(are_beyond(values).any())


def pack_floats(values: Sequence[float]) -> np.ndarray:
    """Numbers → float32 `[N]`, read-only.

    Raises:
        OverflowError: one is too large for float32.
        struct.error: one is not a number.
    """
    return np.frombuffer(_floats(len(values)).pack(*values), np.float32)


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
            row_1F = pack_floats(values[0]).reshape(1, -1)  # type: ignore[arg-type]  # see below
        except (struct.error, OverflowError):  # a value is missing, or too large
            pass
        else:
            if isfinite(vdot(row_1F, row_1F)):  # then none is near `LARGEST`
                return row_1F
    with np.errstate(over="ignore"):  # infinite, and refused
        rows_TF = np.array(values, dtype=np.float32)  # None becomes NaN
    beyond = are_beyond(rows_TF)
    if beyond.any():
        index, column = (int(each[0]) for each in np.nonzero(beyond))
        raise InvalidInputError(
            f"{where}.observations[{index}] holds {values[index][column]:g} in column"
            f" {columns[column]!r}: expected numbers up to {LARGEST:g} in size; check its unit"
        )
    return rows_TF


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
