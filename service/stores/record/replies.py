"""The last replies of a session, kept for retries, and their bytes in its record."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

# the step it began at, observations, bytes of outputs, digest of its request
_REPLY = struct.Struct("<qII16s")

PackedReplies = bytes
"""Kept replies, packed end to end, oldest first."""


class KeptReply(NamedTuple):
    """One entry of the reply ring: the request that began at `from_step`, and its answer.

    `key` is the digest of its Idempotency-Key, b"" where it had none.
    """

    from_step: int
    num_observed: int
    digest: bytes
    outputs: bytes
    key: bytes = b""


def pack_reply(from_step: int, num_observed: int, digest: bytes, outputs: bytes) -> PackedReplies:
    """One kept reply, as it stands in `data`."""
    return _REPLY.pack(from_step, num_observed, len(outputs), digest) + outputs


def unpack_replies(replies: PackedReplies) -> Iterator[KeptReply]:
    """Packed replies, one by one, without their keys.

    Raises:
        ValueError: the last one is cut short.
    """
    position = 0
    while position < len(replies):
        reply, position = _reply_at(replies, position)
        yield reply


def size_of_replies(data: bytes, num_replies: int) -> int:
    """How much of `data`, which begins with replies, they are.

    Raises:
        ValueError: one of them is cut short.
    """
    position = 0
    for _ in range(num_replies):
        _, position = _reply_at(data, position)
    return position


def first_reply_bytes(replies: PackedReplies, start: int) -> int:
    """The size of the kept reply that begins at `start`."""
    return _REPLY.size + int(_REPLY.unpack_from(replies, start)[2])


def _reply_at(data: bytes, position: int) -> tuple[KeptReply, int]:
    """The reply that begins at `position`, and where it ends."""
    if len(data) - position < _REPLY.size:
        raise ValueError("a kept reply is cut short")
    from_step, num_observed, num_bytes, digest = _REPLY.unpack_from(data, position)
    start = position + _REPLY.size
    end = start + num_bytes
    if end > len(data):
        raise ValueError("a kept reply is cut short")
    return KeptReply(from_step, num_observed, digest, data[start:end]), end
