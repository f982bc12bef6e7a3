"""What a session keeps beside its last replies: their keys, past states, past observations.

It stands at the end of a record's `data`, little-endian, and makes it one of format 2:

    counts         of keys, checkpoints and observations: 12 bytes
    keys           16 bytes for each kept reply, zeros where its request had none
    checkpoints    oldest first: 24 bytes, see `_CHECKPOINT`, the state and the pending text, each
    observations   oldest first: 4 bytes of length and the bytes, each

Rule 1: to keep nothing takes no bytes at all, so that such a record stays one of format 1.
Rule 2: an observation is opaque here: `engine/session/observation_codec.py` knows what it is.
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
    """What is needed to go on from an earlier step."""

    step: int
    state: bytes
    cursor: TextCursor


class History(NamedTuple):
    """`keys` belong to the kept replies, one each, b"" where there was none."""

    keys: tuple[bytes, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    observations: tuple[bytes, ...] = ()


NO_HISTORY = History()


def pack_history(kept: History) -> bytes:
    """As it stands in `data`; b"" where nothing is kept."""
    keys = kept.keys if any(kept.keys) else ()
    if not (keys or kept.checkpoints or kept.observations):
        return b""
    parts = [_COUNTS.pack(len(keys), len(kept.checkpoints), len(kept.observations))]
    parts += [key or _NO_KEY for key in keys]
    for each in kept.checkpoints:
        pending = each.cursor.pending.encode()
        sizes = len(each.state), len(pending)
        parts += [_CHECKPOINT.pack(each.step, each.cursor.num_tokens, *sizes), each.state, pending]
    for observation in kept.observations:
        parts += [_SIZE.pack(len(observation)), observation]
    return b"".join(parts)


def unpack_history(packed: bytes) -> History:
    """The reverse of `pack_kept`.

    Raises:
        ValueError: it is cut short, too long, or not text where it must be.
    """
    if not packed:
        return NO_HISTORY
    reader = _Reader(packed)
    num_keys, num_checkpoints, num_observations = reader.take(_COUNTS)
    keys = tuple([_key(reader.take_bytes(KEY_BYTES)) for _ in range(num_keys)])
    checkpoints = tuple([_take_checkpoint(reader) for _ in range(num_checkpoints)])
    observations = tuple([_take_observation(reader) for _ in range(num_observations)])
    if reader.position != len(packed):
        raise ValueError("there is more than it says")
    return History(keys, checkpoints, observations)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take_bytes(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise ValueError("it is cut short")
        taken, self.position = self._data[self.position : end], end
        return taken

    def take(self, what: struct.Struct) -> tuple[int, ...]:
        return what.unpack(self.take_bytes(what.size))


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
