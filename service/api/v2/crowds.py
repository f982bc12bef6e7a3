"""Bounds of what a big body of `/v2` may consist of, checked before it is parsed.

Rule 1: a flat `data` list of any length passes: it is one list and has no members of its own.
Rule 2: nothing here knows the web framework: big bodies are read in a process of their own.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from service.api.codec.validation import most_containers, num_outside_texts
from service.errors import TooLargeError
from service.settings import Settings

_Result = TypeVar("_Result")

_MOST_MEMBERS: Final = 16_384
"""Six for each tensor, and the parameters: `/v2` has no objects for rows."""


def read_counted(
    reading: Callable[[bytes, int | None], _Result],
    settings: Settings,
    data: bytes,
    json_bytes: int | None,
) -> _Result:
    """`reading(data, json_bytes)`, of a body whose JSON is within bounds.

    Raises:
        CarryError: it is not, or `reading` raised it.
    """
    _refuse_crowded(data[:json_bytes], settings)
    return reading(data, json_bytes)


def _refuse_crowded(data: bytes, settings: Settings) -> None:
    most = most_containers(settings)
    found = num_outside_texts(data, b"{[", most)
    if found > most:
        raise TooLargeError(
            f'the body has {found} objects and lists: expected at most {most}; send "data" as a'
            " flat list or in binary, or in several requests"
        )
    found = num_outside_texts(data, b":", _MOST_MEMBERS)
    if found > _MOST_MEMBERS:
        raise TooLargeError(
            f"the objects of the body have {found} members: expected at most {_MOST_MEMBERS}; send"
            " fewer parameters"
        )
