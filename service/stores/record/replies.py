"""The kept replies of a session: the last ones, for retries, and their byte format."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

# first step, number of observations, bytes of outputs, digest of the request
_REPLY = struct.Struct("<qII16s")

PackedReplies = bytes
"""Kept replies, packed one after another, oldest first."""


class KeptReply(NamedTuple):
    """The reply to the request that started at `from_step`.

    `key` is the digest of its Idempotency-Key, b"" if it had none.
    """

    from_step: int
    num_observed: int
    digest: bytes
    outputs: bytes
    key: bytes = b""


def pack_reply(from_step: int, num_observed: int, digest: bytes, outputs: bytes) -> PackedReplies:
    """One kept reply, as it is stored in `data`."""
    return _REPLY.pack(from_step, num_observed, len(outputs), digest) + outputs


def unpack_replies(replies: PackedReplies) -> Iterator[KeptReply]:
    """Packed replies, one by one, without their keys.

    Raises:
        ValueError: the last one is truncated.
    """
    position = 0
    while position < len(replies):
        reply, position = _reply_at(replies, position)
        yield reply


def size_of_replies(data: bytes, num_replies: int) -> int:
    """The bytes of the replies with which `data` begins.

    Raises:
        ValueError: one of them is truncated.
    """
    position = 0
    for _ in range(num_replies):
        _, position = _reply_at(data, position)
    return position


def first_reply_bytes(replies: PackedReplies, start: int) -> int:
    """The size of the kept reply at offset `start`."""
    return _REPLY.size + int(_REPLY.unpack_from(replies, start)[2])


def _reply_at(data: bytes, position: int) -> tuple[KeptReply, int]:
    """The reply at offset `position`, and the offset of its end."""
    if len(data) - position < _REPLY.size:
        raise ValueError("a kept reply is truncated")
    from_step, num_observed, num_bytes, digest = _REPLY.unpack_from(data, position)
    start = position + _REPLY.size
    end = start + num_bytes
    if end > len(data):
        raise ValueError("a kept reply is truncated")
    return KeptReply(from_step, num_observed, digest, data[start:end]), end
