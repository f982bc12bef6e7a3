"""The caller's values as JSON: numbers, arrays, dates and frames of any library.

Rule 1: no library is imported: the methods of a value (`tolist`, `isoformat`, `to_dicts`, …) tell
        what it is: arrays of NumPy, torch and JAX, frames of pandas, polars and Arrow.
Rule 2: NaN, NaT and NA are missing values, null; infinite numbers are refused.
Rule 3: plain values cost no more than `json.dumps`; others are converted when it fails.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from service.client.problems import ClientError

Json = dict[str, Any]


def encode(body: Mapping[str, Any]) -> bytes:
    """A body as JSON.

    Raises:
        ClientError: JSON cannot express a value in it.
    """
    try:
        return json.dumps(body, allow_nan=False, default=_plain).encode()
    except (ValueError, TypeError):  # a NaN or infinity, or a key that is not text
        return json.dumps(_plain_throughout(body), allow_nan=False).encode()


def fields_of(rows: object, fields: Mapping[str, Any]) -> Json:
    """The fields of a request that feeds `rows`: rows, one row, or a text."""
    if rows is None:
        return dict(fields)
    if isinstance(rows, str):
        if "text" in fields:
            raise ClientError("two texts: expected one, either in place of rows or as text=")
        return {"text": rows} | dict(fields)
    return dict(fields) | {"observations": rows_of(rows)}


def rows_of(value: object) -> list[Any]:
    """Rows of observations, from a list, an array `[T, F]`, a frame, or a single row.

    A list or an array of plain values is one row, in the order of the model's columns. A series is
    a column; one whose labels are names is a row.
    """
    listed = _listed(value)
    if isinstance(listed, Mapping):  # one row, by column name
        return [listed]
    if not isinstance(listed, list):
        return [[listed]]  # one value, of a model with one column
    rows = [_listed(row) for row in listed]
    if not rows or any(isinstance(row, Mapping | list) for row in rows):
        return rows
    return [rows]


def requests_of(value: object) -> Any:  # noqa: ANN401 -- an iterable of the rows of each request
    """Many requests: one for each row of a frame, or one for each element of an iterable."""
    is_frame = any(hasattr(value, method) for method in ("to_dicts", "to_pylist", "to_dict"))
    is_frame |= _is_lazy(value)
    return [[row] for row in rows_of(value)] if is_frame else value


def instance_of(value: object) -> object:
    """One instance of a prediction, or a history: the service's JSON, a text, or rows."""
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, Mapping):
        fields = dict(value)
        if fields.get("observations") is not None:
            fields["observations"] = rows_of(fields["observations"])
        return fields
    start = _first_time(getattr(value, "index", None))
    return {"observations": rows_of(value)} | ({} if start is None else {"start": start})


def _listed(value: Any) -> Any:  # noqa: ANN401 -- a mapping, a list, or a plain value
    """The elements of a value, one level deep; the value itself if it has none."""
    if value is None or isinstance(value, str | int | float | Mapping | list):
        return value
    if isinstance(value, tuple):
        return dict(value._asdict()) if hasattr(value, "_asdict") else list(value)
    if _is_lazy(value):
        value = value.collect()
    for method in ("to_dicts", "to_pylist"):  # frames of polars, tables of Arrow
        if hasattr(value, method):
            _require_distinct(getattr(getattr(value, "schema", None), "names", None) or ())
            return getattr(value, method)()
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return _rows_of_pandas(value)
    if hasattr(value, "to_dict") and hasattr(value, "index"):
        return _series_of_pandas(value)
    if hasattr(value, "to_list"):  # a series of polars, an index of pandas
        return _column(getattr(value, "name", None), value.to_list())
    if hasattr(value, "tolist"):
        return _of_array(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | memoryview):
        return list(value)
    return value


def _rows_of_pandas(frame: Any) -> list[Any]:  # noqa: ANN401
    if all(isinstance(name, str) for name in frame.columns):
        _require_distinct(frame.columns)
        rows: list[Any] = frame.to_dict(orient="records")
        return rows
    return [list(row) for row in frame.itertuples(index=False, name=None)]  # columns have no names


def _require_distinct(names: Any) -> None:  # noqa: ANN401 -- of any library
    """A row by name would drop one of two columns with the same name."""
    listed = list(names() if callable(names) else names)  # a method of a polars schema
    if len(set(listed)) < len(listed):
        twice = sorted(name for name, count in Counter(listed).items() if count > 1)
        raise ClientError(
            f"expected columns with distinct names, found more than one named {twice}: rename them"
        )


def _is_lazy(value: object) -> bool:
    """A LazyFrame of polars."""
    return hasattr(value, "collect") and hasattr(value, "collect_schema")


def _series_of_pandas(series: Any) -> Any:  # noqa: ANN401
    labels = list(series.index)
    if labels and all(isinstance(label, str) for label in labels):
        _require_distinct(labels)
        return dict(zip(labels, series.tolist(), strict=True))
    return _column(series.name, series.tolist())


def _column(name: object, values: list[Any]) -> list[Any]:
    if isinstance(name, str) and name:
        return [{name: value} for value in values]
    return [[value] for value in values]


def _of_array(array: Any) -> Any:  # noqa: ANN401
    """An array of any library with `tolist`, or a scalar of one."""
    if getattr(getattr(array, "dtype", None), "kind", "") == "M":
        array = array.astype("datetime64[us]")  # nanoseconds would become plain numbers
    return array.tolist()


def _first_time(index: Any) -> object:  # noqa: ANN401
    """The time of a frame's first row, if its index has times."""
    is_times = getattr(getattr(index, "dtype", None), "kind", "") == "M" and len(index)
    return index[0] if is_times else None


def _plain(value: object) -> object:
    """A value that JSON cannot express, as a simpler one.

    Raises:
        ClientError: its type is not supported.
    """
    if _is_missing(value):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    listed = _listed(value)
    if isinstance(listed, Mapping) and not isinstance(listed, dict):
        return dict(listed)
    if listed is not value:
        return listed
    if hasattr(value, "__float__"):  # a decimal, a fraction
        return float(value)
    raise ClientError(
        f"expected numbers, text, dates, arrays, frames, or lists and mappings of them, found"
        f" {value!r:.80} of type {type(value).__name__}, which JSON cannot express"
    )


def _plain_throughout(value: object) -> object:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise ClientError(
                f"expected finite numbers, or NaN or None for a missing value, found {value}"
            )
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {_key(name): _plain_throughout(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain_throughout(each) for each in value]
    return _plain_throughout(_plain(value))


def _key(name: object) -> str:
    plain = name if isinstance(name, str) else _plain_throughout(name)
    if not isinstance(plain, str):
        raise ClientError(
            f"expected text as the keys of a mapping, such as column names, found {name!r:.80};"
            " pass rows without names as lists"
        )
    return plain


def _is_missing(value: object) -> bool:
    """Whether a value is NaT or NA of any library: they do not equal themselves."""
    if hasattr(value, "__len__"):  # an array compares its elements
        return False
    if type(value).__name__ == "NAType":  # pandas.NA
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # such as an expression of polars
        return False
