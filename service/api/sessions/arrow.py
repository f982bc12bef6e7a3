"""Rows of many sessions as an Arrow IPC stream, and their answers: columns in, columns out.

In: `session` (string), `step` (integer, may be absent or null), and the observation as one column
for each of the model's, or as `observations`, a fixed-size list in the manifest's order. A null is
a missing value. Out: `session`, `step`, `status`, `error`, and a fixed-size list for each output.
What is bounded, and how, is in `arrow_limits.py`.

pyarrow comes with the extra `bulk`; this module is imported by its first request.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it brings no types

from service.api.codec.rows import LARGEST, are_beyond
from service.api.sessions.arrow_limits import (
    names_of,
    refuse_long_views,
    refuse_unbounded,
    require_bounded,
)
from service.engine.models.loaded_model import LoadedModel
from service.errors import InvalidInputError, MalformedError, TooLargeError


class Rows(NamedTuple):
    sessions: list[str]
    steps: list[int | None]
    table: Any


def read_rows(data: bytes, max_rows: int) -> Rows:
    """The rows of a stream, whose observations are still columns.

    Raises:
        CarryError: it is no Arrow stream, too long, or lacks what every row needs.
    """
    try:
        refuse_unbounded(data)
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            require_bounded(reader.schema)
            table = reader.read_all()
        table.validate()
        for column in table.columns:
            refuse_long_views(column)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MalformedError(
            f"the body is not an Arrow IPC stream ({str(error)[:200]}): expected one or more"
            " record batches after a schema"
        ) from None
    if not 0 < table.num_rows <= max_rows:
        problem = TooLargeError if table.num_rows else InvalidInputError
        raise problem(f"{table.num_rows} rows: expected 1 to {max_rows}; send them in parts")
    names = table.column_names
    if len(set(names)) != len(names) or "session" not in names:
        raise InvalidInputError(f"columns {names}: expected each once, and 'session' among them")
    sessions = names_of(table.column("session"))
    if sessions.null_count:
        raise InvalidInputError("column 'session' holds nulls: expected a name in each row")
    steps: list[int | None] = [None] * table.num_rows
    if "step" in names:
        steps = _column(table, "step", pa.int64(), "integers").to_pylist()
        if any(step is not None and step < 0 for step in steps):
            raise InvalidInputError("column 'step' holds a negative number: expected 0 or more")
    return Rows(sessions.to_pylist(), steps, table)


def observations_of(
    rows: Rows, model: LoadedModel
) -> tuple[np.ndarray, dict[int, InvalidInputError]]:
    """`[N, F]` float32 in the manifest's order, NaN where a value is missing; and the errors of the
    rows that hold a value which is infinite there, by their places.

    Raises:
        CarryError: the columns are not the model's, or hold values that are not numbers.
    """
    table, forecast = rows.table, model.manifest.forecast
    if forecast is None:
        raise InvalidInputError(
            f"model {model.name!r} does not read rows: step its sessions with JSON, or one by one"
        )
    columns = [column.name for column in forecast.columns]
    read = _numbers(table, columns, pa.float32())
    is_beyond = are_beyond(read)
    if not is_beyond.any():
        return read, {}
    given = _numbers(table, columns, pa.float64())
    errors = {}
    for row in np.flatnonzero(is_beyond.any(axis=1)).tolist():
        place = int(is_beyond[row].argmax())
        errors[row] = InvalidInputError(
            f"row {row} (counted from 0): column {columns[place]!r} holds {given[row, place]:.6g}:"
            f" expected numbers up to {LARGEST:g} in size, or null where one is missing; check its"
            " unit"
        )
    return read, errors


def _numbers(table: Any, columns: list[str], number: Any) -> np.ndarray:  # noqa: ANN401 -- pyarrow has no types
    """`[N, F]` of the type `number`, NaN for a null."""
    dtype = number.to_pandas_dtype()
    named = [name for name in table.column_names if name not in ("session", "step")]
    if named == ["observations"] and "observations" not in columns:
        if table.column("observations").null_count:  # first: pyarrow's cast of them may crash
            raise InvalidInputError("column 'observations' holds nulls: expected a list in each")
        kind = pa.list_(number, len(columns))
        lists = _column(table, "observations", kind, f"lists of {len(columns)} numbers")
        values = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(values, dtype).reshape(table.num_rows, len(columns))
    if set(named) - set(columns):
        raise InvalidInputError(f"columns {named}: expected some of {columns}")
    read = np.full((table.num_rows, len(columns)), np.nan, dtype)
    for place, name in enumerate(columns):
        if name in named:
            numbers = _column(table, name, number, "numbers").combine_chunks()
            read[:, place] = numbers.to_numpy(zero_copy_only=False)
    return read


def write_answers(
    sessions: Sequence[str],
    steps: Sequence[int],
    errors: dict[int, tuple[int, str]],
    outputs: dict[str, np.ndarray],
) -> bytes:
    """The answer to every row; `outputs` are `{name: [N, …]}`, of no meaning where it failed."""
    status = np.full(len(sessions), 200, np.int32)
    failed = np.zeros(len(sessions), bool)
    for place, (code, _) in errors.items():
        status[place], failed[place] = code, True
    texts: list[str | None] = [None] * len(sessions)
    for place, (_, text) in errors.items():
        texts[place] = text
    columns: dict[str, Any] = {
        "session": pa.array(sessions, pa.string()),
        "step": pa.array(np.asarray(steps, np.int64), mask=failed),
        "status": pa.array(status),
        "error": pa.array(texts, pa.string()),
    }
    for name, values in outputs.items():
        flat = np.ascontiguousarray(values).reshape(len(sessions), -1)
        lists = pa.FixedSizeListArray.from_arrays(
            pa.array(flat.ravel()), flat.shape[1], mask=pa.array(failed)
        )
        columns[name] = lists
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _column(table: Any, name: str, kind: Any, expected: str) -> Any:  # noqa: ANN401 -- pyarrow has no types
    column = table.column(name)
    if column.type == kind:
        return column
    into = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
    if pa.types.is_boolean(getattr(column.type, "value_type", column.type)):
        raise InvalidInputError(  # Arrow would make 0 and 1 of it
            f"column {name!r} is of type {column.type}: expected {expected}"
        )
    # What becomes a float is rounded, as everywhere; an integer stays exact, or is refused.
    try:
        return column.cast(kind, safe=not pa.types.is_floating(into))
    except pa.ArrowException:
        raise InvalidInputError(
            f"column {name!r} is of type {column.type}: expected {expected}"
        ) from None
