"""The history of a session: keys of its kept replies, past states, past observations.

It is the end of a record's `data`, little-endian. A record with a history has format 2:

    counts         of keys, checkpoints and observations: 12 bytes
    keys           16 bytes for each kept reply, zeros if its request had none
    checkpoints    oldest first; each 24 bytes (see `_CHECKPOINT`), the state, the pending text
    observations   oldest first; each 4 bytes of length, and the bytes

Rule 1: an empty history takes no bytes, so that such a record has format 1.
Rule 2: an observation is opaque here; `engine/session/observation_codec.py` decodes it.
"""

import struct
from typing import NamedTuple

from service.contract.text import TextCursor

KEY_BYTES = 16
_NO_KEY = bytes(KEY_BYTES)
_COUNTS = struct.Struct("<III")
# step, tokens read so far, bytes of the state, bytes of the pending text
_CHECKPOINT = struct.Struct("<qqII")
_SIZE = struct.Struct("<I")


class HistoryPolicy(NamedTuple):
    """How much of its past a session keeps, chosen when it is opened.

    At most `checkpoints` past states, at least `checkpoint_every` observations apart, and the last
    `observations`.
    """

    checkpoints: int = 0
    checkpoint_every: int = 1
    observations: int = 0


class Checkpoint(NamedTuple):
    """What is needed to continue from an earlier step."""

    step: int
    state: bytes
    cursor: TextCursor


class History(NamedTuple):
    """`keys` holds one key for each kept reply, b"" if its request had none."""

    keys: tuple[bytes, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    observations: tuple[bytes, ...] = ()


NO_HISTORY = History()


def pack_history(history: History) -> bytes:
    """As it is stored in `data`; b"" if it is empty."""
    keys = history.keys if any(history.keys) else ()
    if not (keys or history.checkpoints or history.observations):
        return b""
    parts = [_COUNTS.pack(len(keys), len(history.checkpoints), len(history.observations))]
    parts += [key or _NO_KEY for key in keys]
    for each in history.checkpoints:
        pending = each.cursor.pending.encode()
        sizes = len(each.state), len(pending)
        parts += [_CHECKPOINT.pack(each.step, each.cursor.num_tokens, *sizes), each.state, pending]
    for observation in history.observations:
        parts += [_SIZE.pack(len(observation)), observation]
    return b"".join(parts)


def unpack_history(packed: bytes) -> History:
    """The inverse of `pack_history`.

    Raises:
        ValueError: it is truncated, too long, or its text is not valid UTF-8.
    """
    if not packed:
        return NO_HISTORY
    reader = _Reader(packed)
    num_keys, num_checkpoints, num_observations = reader.take(_COUNTS)
    keys = tuple([_key(reader.take_bytes(KEY_BYTES)) for _ in range(num_keys)])
    checkpoints = tuple([_take_checkpoint(reader) for _ in range(num_checkpoints)])
    observations = tuple([_take_observation(reader) for _ in range(num_observations)])
    if reader.position != len(packed):
        raise ValueError("there are bytes after its history")
    return History(keys, checkpoints, observations)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take_bytes(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise ValueError("it is truncated")
        taken, self.position = self._data[self.position : end], end
        return taken

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take_bytes(layout.size))


def _key(stored: bytes) -> bytes:
    return b"" if stored == _NO_KEY else stored


def _take_checkpoint(reader: _Reader) -> Checkpoint:
    step, num_tokens, state_bytes, pending_bytes = reader.take(_CHECKPOINT)
    state = reader.take_bytes(state_bytes)
    return Checkpoint(
        step, state, TextCursor(reader.take_bytes(pending_bytes).decode(), num_tokens)
    )


def _take_observation(reader: _Reader) -> bytes:
    [size] = reader.take(_SIZE)
    return reader.take_bytes(size)
