"""From the bytes of a body to what its schema makes of them, or to the error that says why not.

Nothing here knows the web framework: big bodies are parsed in a process of its own.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.api import limits
from service.errors import CarryError, InvalidInputError, MalformedError, TooLargeError
from service.settings import Settings

_Body = TypeVar("_Body", bound=BaseModel)

_MOST_PLACES = 10
"""How many problems of a body an answer lists."""

_BYTES_A_CONTAINER = 64
"""Of a body, for each object and list that it may have beside its rows and instances."""

_SMALL_BYTES, _MOST_OBJECTS, _MOST_VALUES = 16_384, 4096, 16_384
"""Of a body that is read on the event loop: each value of it may be wrong, and is then told."""


def parse_body(schema: type[_Body], data: bytes) -> _Body:
    """Check `data` against `schema`.

    Raises:
        CarryError: it is no JSON, or does not fit; the detail names the first place.
    """
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    try:
        if problems[0]["type"] == "json_invalid":
            # pydantic-core calls half of a surrogate pair no JSON; Python reads it, so that the
            # schema can say what is wrong, as it does where the framework parses.
            return schema.model_validate(json.loads(data))
    except ValidationError as error:
        problems = error.errors(include_url=False)
    except (ValueError, RecursionError):
        pass
    raise invalid_request(problems, "body")


def refuse_crowded(data: bytes, settings: Settings) -> None:
    """Refuse a body of more objects and lists than any request has, before anything is made of it.

    Two bytes of JSON become hundreds of memory. They are counted outside of texts.

    Raises:
        TooLargeError: with how many there are.
    """
    most = most_containers(settings)
    found = num_outside_texts(data, b"{[", most)
    if found > most:
        raise TooLargeError(
            f"the body has {found} objects and lists: expected at most {most}; send it in parts"
        )


def is_crowded(data: bytes) -> bool:
    """Whether making objects of a small body would hold others up all the same."""
    return len(data) > _SMALL_BYTES and (
        data.count(b"{") > _MOST_OBJECTS or data.count(b",") > _MOST_VALUES
    )


def most_containers(settings: Settings) -> int:
    """How many objects and lists a body may have."""
    num_body = settings.max_body_bytes // _BYTES_A_CONTAINER
    return limits.MAX_ROWS + limits.MAX_INSTANCES + num_body


def num_outside_texts(data: bytes, marks: bytes, most: int) -> int:
    """How many bytes of JSON are one of `marks` and in no text; at most `most` is an upper bound.

    Texts are looked for only where there are more of them in all.
    """
    found = sum(map(data.count, marks))
    if found <= most:
        return found
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return sum(map(b"".join(plain.split(b'"')[::2]).count, marks))


def invalid_request(problems: Sequence[Mapping[str, Any]], where: str = "") -> CarryError:
    """What to answer where a body, path or query does not fit, from pydantic's errors."""
    if any(problem["type"] == "json_invalid" for problem in problems):
        why = str(problems[0].get("ctx", {}).get("error", "it cannot be read"))
        return MalformedError(f"the body is not valid JSON ({why}): expected an object")
    told = [problem for problem in problems if not _is_of_the_other_kind(problem)]
    prefix = [where] if where else []
    places = [
        {
            "place": _place((*prefix, *problem["loc"])),
            "problem": problem["msg"].removeprefix("Value error, ") + _got(problem.get("input")),
        }
        for problem in told[:_MOST_PLACES]
    ]
    first = places[0]
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    return InvalidInputError(
        f"{first['place']}: {first['problem']}{more}; /docs shows what is expected", errors=places
    )


def _is_of_the_other_kind(problem: Mapping[str, Any]) -> bool:
    """A row is tried as an object and as a list: only the trial of its own kind tells anything."""
    tried, kind = problem["loc"][-1] if problem["loc"] else "", problem["type"]
    if tried == "object" and kind == "dict_type":
        return isinstance(problem["input"], list)
    return tried == "list" and kind == "list_type"


def _place(parts: Sequence[int | str]) -> str:
    """`body.observations[0].ridership`; the names of a union's members are left out."""
    shown = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in parts
        if part not in ("object", "list")
    )
    return shown.removeprefix(".")


def _got(value: object) -> str:
    is_plain = isinstance(value, str | int | float)
    return f", got {value!r}" if is_plain and len(repr(value)) <= 60 else ""
