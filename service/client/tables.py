"""Predictions as a table of pandas or polars, whichever is installed.

A row is one forecast time, one labelled row, or one prediction.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from re import fullmatch
from typing import Any

from service.client.problems import ClientError

Json = dict[str, Any]
_UNITS = {"W": "weeks", "D": "days", "H": "hours", "M": "minutes", "S": "seconds"}


def to_frame(predictions: Json | Sequence[Json]) -> Any:  # noqa: ANN401 -- of either library
    """A `DataFrame` of one prediction; of many, with a column `prediction` that numbers them.

    Forecasts have the columns `time` (if the session has one), `ahead` (1 is the next row), `mean`
    and one for each quantile. Classifications have `label` and one column for each class.

    Raises:
        ClientError: neither pandas nor polars is installed.
    """
    if isinstance(predictions, Mapping):
        return _frame(list(_records(predictions)))
    return frame_of(predictions, "prediction", 0)


def frame_of(predictions: Sequence[Json], column: str, first: int) -> Any:  # noqa: ANN401
    """As `to_frame`, with a column that numbers the predictions from `first`."""
    return _frame(
        [
            {column: number} | record
            for number, prediction in enumerate(predictions, first)
            for record in _records(prediction)
        ]
    )


def _frame(records: list[Json]) -> Any:  # noqa: ANN401
    for library in ("pandas", "polars"):
        try:
            module = importlib.import_module(library)
        except ImportError:
            continue
        return module.DataFrame(records)
    raise ClientError(
        "expected pandas or polars, found neither: pip install one, or read the prediction"
    )


def _records(prediction: Json) -> Iterator[Json]:
    if "mean" in prediction:
        yield from _forecast(prediction)
    elif "labels" in prediction:
        rows = zip(prediction["labels"], prediction["probabilities"], strict=True)
        yield from ({"row": n, "label": label} | shares for n, (label, shares) in enumerate(rows))
    else:
        plain = {name: value for name, value in prediction.items() if not isinstance(value, dict)}
        parts = [value for value in prediction.values() if isinstance(value, dict)]
        yield {name: value for part in (plain, *parts) for name, value in part.items()}


def _forecast(prediction: Json) -> Iterator[Json]:
    start, every = prediction.get("start"), _every(prediction.get("frequency", ""))
    for index, mean in enumerate(prediction["mean"]):
        record: Json = {} if "id" not in prediction else {"id": prediction["id"]}
        if start is not None and every is not None:
            record["time"] = datetime.fromisoformat(start) + index * every
        record |= {"ahead": index + 1, "mean": mean}
        yield record | {name: row[index] for name, row in prediction["quantiles"].items()}


def _every(frequency: str) -> timedelta | None:
    """The ISO 8601 durations that the service writes: P1D, PT15M."""
    found = fullmatch(r"PT?(\d+)([WDHMS])", frequency)
    return None if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})
