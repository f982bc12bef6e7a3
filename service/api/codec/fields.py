"""Kinds of values in bodies, with the checks that a schema alone cannot say."""

import math
import re
from datetime import datetime
from typing import Annotated, Any

import orjson
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    Strict,
    Tag,
    WithJsonSchema,
)

MAX_METADATA_BYTES = 16_384
MAX_METADATA_DEPTH = 16
MAX_WHOLE = 2**53 - 1
"""The greatest whole number that every reader of JSON keeps as it is."""


def _whole_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"half of a surrogate pair at character {error.start}: cut text between characters"
        ) from None
    return value


def _no_path_step(name: str) -> str:
    if name in {".", ".."}:
        raise ValueError("'.' and '..' are not valid names: clients resolve them in paths")
    return name


def _written_time(value: object) -> object:
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d", value):
        raise ValueError("expected a date or a time as RFC 3339 writes it, such as 2016-08-29")
    return value


def _small_metadata(value: dict[str, Any]) -> dict[str, Any]:
    _require_plain(value, MAX_METADATA_DEPTH)
    try:
        num_bytes = len(orjson.dumps(value))
    except TypeError as error:
        raise ValueError(f"cannot be kept as JSON: {error}") from None
    if num_bytes > MAX_METADATA_BYTES:
        raise ValueError(f"has {num_bytes} bytes as JSON: expected at most {MAX_METADATA_BYTES}")
    return value


def _require_plain(value: object, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"is nested deeper than {MAX_METADATA_DEPTH}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is not finite")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _require_plain(each, depth - 1)


Text = Annotated[str, AfterValidator(_whole_text)]
Time = Annotated[
    datetime,
    BeforeValidator(_written_time),
    WithJsonSchema({"anyOf": [{"type": "string", "format": f} for f in ("date", "date-time")]}),
]
Metadata = Annotated[dict[str, Any], AfterValidator(_small_metadata)]
SessionName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9._~-]{1,128}$"), AfterValidator(_no_path_step)
]
StepNumber = Annotated[int, Strict(), Field(ge=0, le=MAX_WHOLE)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
NamedRow = Annotated[dict[str, Number | None], Tag("object")]
ListedRow = Annotated[list[Number | None], Tag("list")]
# Tried one after the other inside pydantic-core: a discriminator would cost a call of Python a row.
Row = Annotated[NamedRow | ListedRow, Field(union_mode="left_to_right")]
