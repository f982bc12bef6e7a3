"""What an Arrow stream may hold, so that reading it takes no more than its bytes are worth.

Rule 1: no compressed buffers: a few kB of them may be gigabytes, and Arrow allocates what they say.
Rule 2: a bounded number of batches, and no dictionary that grows with each of them.
Rule 3: numbers come as they are, not by reference (views, runs, dictionaries); names may, but their
        lengths are added up before they are written out.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it brings no types
import pyarrow.compute as pc  # type: ignore[import-untyped]
from flatbuffers.table import Table  # type: ignore[import-untyped]

from service.errors import InvalidInputError, TooLargeError

_MAX_MESSAGES = 4096
_MAX_NAMES_BYTES = 64 << 20

_HEADER: Final = 8
_OF_BATCH: Final = {10: "compressed columns"}
_OF_DICTIONARY: Final = {8: "dictionaries that grow"}
_DATA: Final = 6
"""Where a table of Arrow's Message.fbs says what: 4 + 2 × the number of the field."""


def refuse_unbounded(data: bytes) -> None:
    """Refuse an Arrow stream that is compressed, in too many parts, or has growing dictionaries.

    Raises:
        CarryError: it is.
        pa.ArrowException: the stream is invalid: Arrow checks each message first.
    """
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(pa.py_buffer(data))):
        if number > _MAX_MESSAGES:
            raise TooLargeError(
                f"more than {_MAX_MESSAGES} batches: expected fewer and longer ones"
            )
        if message.type not in ("record batch", "dictionary"):
            continue
        batch = _child(_root(message.metadata), _HEADER)
        if message.type == "dictionary":
            _refuse(batch, _OF_DICTIONARY)
            batch = _child(batch, _DATA)
        _refuse(batch, _OF_BATCH)


def require_bounded(schema: Any) -> None:  # noqa: ANN401 -- pyarrow has no types
    """Refuse columns whose rows could take any number of bytes.

    Raises:
        InvalidInputError: one is neither the names of sessions, nor numbers, nor lists of them.
    """
    for field in schema:
        fits = _is_text(field.type) if field.name == "session" else _is_bounded(field.type)
        if not fits:
            expected = "text" if field.name == "session" else "numbers, or lists of numbers"
            raise InvalidInputError(
                f"column {field.name!r} is of type {str(field.type)[:200]}: expected {expected}"
            )


def refuse_long_views(column: Any) -> None:  # noqa: ANN401 -- pyarrow has no types
    """To be called before a table is proven in full: Arrow looks at every text of every view."""
    if pa.types.is_string_view(column.type):
        _require_room(sum(_num_bytes_of_views(chunk) for chunk in column.chunks))


def names_of(column: Any) -> Any:  # noqa: ANN401 -- pyarrow has no types
    """A column of text, proven in full, as plain strings.

    Raises:
        TooLargeError: it is too long when it is written out.
    """
    if pa.types.is_dictionary(column.type):
        lengths = [pc.binary_length(each.dictionary).take(each.indices) for each in column.chunks]
        _require_room(sum(pc.sum(each.cast(pa.int64())).as_py() or 0 for each in lengths))
    return column.cast(pa.string())


def _num_bytes_of_views(chunk: Any) -> int:  # noqa: ANN401 -- pyarrow has no types
    """Each view is 16 bytes and begins with its length."""
    views = np.frombuffer(chunk.buffers()[1] or b"", "<i4")[4 * chunk.offset :: 4]
    return int(np.abs(views[: len(chunk)].astype(np.int64)).sum())


def _require_room(num_bytes: int) -> None:
    if num_bytes > _MAX_NAMES_BYTES:
        raise TooLargeError(
            f"column 'session' has {num_bytes} bytes when it is written out: expected at most"
            f" {_MAX_NAMES_BYTES}; send the rows in parts"
        )


def _is_text(kind: Any) -> bool:  # noqa: ANN401 -- pyarrow has no types
    if pa.types.is_dictionary(kind):
        return bool(pa.types.is_string(kind.value_type))
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_known(kind) for is_known in known)


def _is_bounded(kind: Any) -> bool:  # noqa: ANN401 -- pyarrow has no types
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(is_list(kind) for is_list in lists):
        return _is_number(kind.value_type)
    return _is_number(kind) or bool(pa.types.is_null(kind))


def _is_number(kind: Any) -> bool:  # noqa: ANN401 -- pyarrow has no types
    known = (
        pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean
    )  # fmt: skip
    return any(is_known(kind) for is_known in known)


def _root(metadata: Any) -> Table:  # noqa: ANN401 -- a buffer of pyarrow's
    data = metadata.to_pybytes()
    return Table(data, int.from_bytes(data[:4], "little"))


def _child(table: Table, place: int) -> Table:
    return Table(table.Bytes, table.Indirect(table.Pos + table.Offset(place)))


def _refuse(table: Table, kinds: dict[int, str]) -> None:
    for place, what in kinds.items():
        if table.Offset(place):
            raise InvalidInputError(
                f"the stream has {what}: a small body could unfold to any size; write it without"
            )
