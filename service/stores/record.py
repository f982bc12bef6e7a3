"""The record of one session: all that a replica needs to take it over, and its byte format.

A record has two parts: its `Opening`, fixed when the session is opened, and `data`, which every
step writes anew. `data` is one run of bytes, little-endian, and is what stores keep as it is:

    head      64 bytes, see `_HEAD`
    state     the packed state of the model
    pending   text that is not certain yet, UTF-8
    replies   oldest first: 32 bytes, see `_REPLY`, and the packed outputs, each

Rule 1: a record is immutable; every write carries a new one with a fresh random `revision`.
Rule 2: both parts name their format; a service reads every format up to its own and refuses a
        later one (`RecordFormatError`) instead of guessing.
Rule 3: replies are kept as packed outputs, not as JSON: a retry may come by another transport.
"""

import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from service.contract.text import TextCursor
from service.errors import RecordUnreadableError

RECORD_FORMAT = 1
_MAGIC = b"CS"
# magic, format, why it is closed, revision, step, updated_at, ttl_s, bytes of the state, bytes of
# the pending text, number of replies, tokens read so far
_HEAD = struct.Struct("<2sBB16sqddIIIq")
# the step it began at, observations, bytes of outputs, digest of its request
_REPLY = struct.Struct("<qII16s")
_CLOSED = ("", "deleted", "final")
# Read at every step, so by themselves.
_STEP, _STEP_AT = struct.Struct("<q"), 20
_TTL_S, _TTL_S_AT = struct.Struct("<d"), 36
_STATE_BYTES, _STATE_BYTES_AT = struct.Struct("<I"), 44
_CLOSED_AT, _REVISION_AT = 3, 4

STATE_AT = _HEAD.size
"""Where the state begins in `data`."""

PackedOutputs = bytes
"""Answered steps, packed by the model's `OutputLayout`; empty where nothing was answered."""

PackedReplies = bytes
"""Kept replies, packed end to end, oldest first."""


class RecordFormatError(RecordUnreadableError):
    """Bytes in the store that this service does not understand."""


class Key(NamedTuple):
    """Sessions are keyed by tenant and name, so that tenants never meet."""

    tenant: str
    name: str


class KeptReply(NamedTuple):
    """One entry of the reply ring: the request that began at `from_step`, and its answer."""

    from_step: int
    num_observed: int
    digest: bytes
    outputs: PackedOutputs


class Origin(NamedTuple):
    """What made a state. It means something only to the graph of these very bytes.

    `state_schema` says which other graphs may be given it on purpose.
    """

    model: str
    version: str
    state_schema: str
    graph_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is fixed when a session is opened, with the reply to that.

    `start_s` is the time of row 0 where the model uses time, in seconds since the epoch. `history`
    is how many observations it began with; `digest` and `outputs` belong to the opening request.
    """

    tenant: str
    name: str
    origin: Origin
    start_s: int | None = None
    ring_size: int = 1
    created_at: float
    metadata: dict[str, Any] | None = None
    history: int = 0
    digest: bytes
    outputs: PackedOutputs = b""

    @property
    def model(self) -> str:
        return self.origin.model

    @property
    def version(self) -> str:
        return self.origin.version


class Record(NamedTuple):
    """A session as the store keeps it. Times are seconds since the epoch, UTC.

    `expires_at` and `place` (where it lies) are the store's to set. A closed record is a tombstone:
    no state, only the last replies.
    """

    opening: Opening
    data: bytes
    expires_at: float = 0.0
    place: int = 0

    @property
    def key(self) -> Key:
        return Key(self.opening.tenant, self.opening.name)

    @property
    def revision(self) -> bytes:
        return revision_of(self.data)

    @property
    def step(self) -> int:
        return int(_STEP.unpack_from(self.data, _STEP_AT)[0])

    @property
    def closed(self) -> str:
        """Why the session ended; "" while it goes on."""
        return _CLOSED[self.data[_CLOSED_AT]]

    @property
    def updated_at(self) -> float:
        return self._head.updated_at

    @property
    def ttl_s(self) -> float:
        return ttl_s_of(self.data)

    @property
    def state_bytes(self) -> int:
        return int(_STATE_BYTES.unpack_from(self.data, _STATE_BYTES_AT)[0])

    @property
    def state(self) -> bytes:
        data = self.data
        num_bytes = _STATE_BYTES.unpack_from(data, _STATE_BYTES_AT)[0]
        return data[STATE_AT : STATE_AT + num_bytes]

    @property
    def cursor(self) -> TextCursor:
        """How far a text has been read, and what of it is not certain yet."""
        head = self._head
        start = STATE_AT + head.state_bytes
        pending = self.data[start : start + head.pending_bytes].decode()
        return TextCursor(pending, head.num_tokens)

    @property
    def replies(self) -> PackedReplies:
        head = self._head
        return self.data[STATE_AT + head.state_bytes + head.pending_bytes :]

    @property
    def ring(self) -> tuple[KeptReply, ...]:
        """Replies kept for retries, oldest first."""
        return tuple(unpack_replies(self.replies))

    @property
    def num_replies(self) -> int:
        return self._head.num_replies

    @property
    def _head(self) -> "_Head":
        return _Head(*_HEAD.unpack_from(self.data))


def revision_of(data: bytes) -> bytes:
    """The revision of a record that is not kept yet."""
    return data[_REVISION_AT : _REVISION_AT + _REVISION_BYTES]


def ttl_s_of(data: bytes) -> float:
    """The time to live of a record that is not kept yet."""
    return float(_TTL_S.unpack_from(data, _TTL_S_AT)[0])


class _Head(NamedTuple):
    magic: bytes
    format: int
    closed: int
    revision: bytes
    step: int
    updated_at: float
    ttl_s: float
    state_bytes: int
    pending_bytes: int
    num_replies: int
    num_tokens: int


def pack_data(
    step: int,
    state: bytes,
    cursor: TextCursor,
    replies: PackedReplies,
    num_replies: int,
    ttl_s: float,
    updated_at: float,
    closed: str = "",
) -> bytes:
    """The `data` of a new record, under a fresh revision."""
    pending = cursor.pending.encode() if cursor.pending else b""
    head = _HEAD.pack(
        _MAGIC, RECORD_FORMAT, _CLOSED.index(closed), new_revision(), step, updated_at, ttl_s,
        len(state), len(pending), num_replies, cursor.num_tokens,
    )  # fmt: skip
    return b"".join((head, state, pending, replies))


def pack_reply(
    from_step: int, num_observed: int, digest: bytes, outputs: PackedOutputs
) -> PackedReplies:
    """One kept reply, as it stands in `data`."""
    return _REPLY.pack(from_step, num_observed, len(outputs), digest) + outputs


def pack_alike(
    steps: "np.ndarray[Any, np.dtype[np.int64]]",
    counts: list[int],
    ttl_s: list[float],
    states: np.ndarray,
    digests: list[bytes],
    outputs: np.ndarray,
    updated_at: float,
) -> list[bytes]:
    """`pack_data` of many records that have no pending text and keep just their last reply.

    `steps` are those before, states and outputs bytes `[B, …]`. A batch of steps is packed by a few
    copies of columns: the same bytes as one by one, in a fifth of the time.
    """
    num_rows, state_bytes = states.shape
    dtype = _alike_dtype(state_bytes, outputs.shape[1])
    rows = np.empty(num_rows, dtype)
    rows["head"] = np.frombuffer(_MAGIC + bytes([RECORD_FORMAT, 0]), "V4")
    rows["revision"] = np.frombuffer(secrets.token_bytes(_REVISION_BYTES * num_rows), "V16")
    rows["from_step"] = steps
    rows["num_observed"] = counts
    rows["step"] = steps + rows["num_observed"]
    rows["updated_at"] = updated_at
    rows["ttl_s"] = ttl_s
    rows["state_bytes"] = state_bytes
    rows["pending_bytes"] = 0
    rows["num_replies"] = 1
    rows["num_tokens"] = 0
    rows["state"] = states.view(dtype["state"])[:, 0]
    rows["output_bytes"] = outputs.shape[1]
    rows["digest"] = np.frombuffer(b"".join(digests), "V16")
    rows["outputs"] = outputs.view(dtype["outputs"])[:, 0]
    data, size = rows.tobytes(), dtype.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


@lru_cache
def _alike_dtype(state_bytes: int, output_bytes: int) -> np.dtype[np.void]:
    """`_HEAD`, a state, `_REPLY` and outputs, as columns."""
    head = [
        ("head", "V4"), ("revision", "V16"), ("step", "<i8"), ("updated_at", "<f8"),
        ("ttl_s", "<f8"), ("state_bytes", "<u4"), ("pending_bytes", "<u4"),
        ("num_replies", "<u4"), ("num_tokens", "<i8"),
    ]  # fmt: skip
    reply = [("from_step", "<i8"), ("num_observed", "<u4"), ("output_bytes", "<u4")]
    blobs = [("state", f"V{state_bytes}")]
    return np.dtype([*head, *blobs, *reply, ("digest", "V16"), ("outputs", f"V{output_bytes}")])


def unpack_replies(replies: PackedReplies) -> Iterator[KeptReply]:
    """Packed replies, one by one."""
    position = 0
    while position < len(replies):
        if len(replies) - position < _REPLY.size:
            raise RecordFormatError("session record is damaged: a kept reply is cut short")
        from_step, num_observed, num_bytes, digest = _REPLY.unpack_from(replies, position)
        position += _REPLY.size + num_bytes
        if position > len(replies):
            raise RecordFormatError("session record is damaged: a kept reply is cut short")
        yield KeptReply(from_step, num_observed, digest, replies[position - num_bytes : position])


def check_data(data: bytes) -> None:
    """Raise RecordFormatError unless `data` is a whole record of a known format."""
    if len(data) < _HEAD.size or data[:2] != _MAGIC:
        raise RecordFormatError("not a session record: the store holds something else")
    head = _Head(*_HEAD.unpack_from(data))
    if head.format > RECORD_FORMAT:
        raise RecordFormatError(
            f"session record has format {head.format}, this service reads up to {RECORD_FORMAT}:"
            " it was written by a later service; upgrade this one"
        )
    position = _HEAD.size + head.state_bytes + head.pending_bytes
    if position > len(data) or head.closed >= len(_CLOSED):
        raise RecordFormatError("session record is damaged: it is cut short")
    if sum(1 for _ in unpack_replies(data[position:])) != head.num_replies:
        raise RecordFormatError("session record is damaged: a kept reply is missing")


_REVISION_BYTES = 16
_revisions: Iterator[bytes] = iter(())


def new_revision() -> bytes:
    """A fresh random token: two records with the same one are the same record.

    The system is asked for many at once: asking costs more than anything else in a step.
    """
    global _revisions
    revision = next(_revisions, None)
    if revision is None:
        data = secrets.token_bytes(256 * _REVISION_BYTES)
        places = range(0, len(data), _REVISION_BYTES)
        _revisions = iter([data[place : place + _REVISION_BYTES] for place in places])
        revision = next(_revisions)
    return revision


def _forget_revisions() -> None:
    """A forked process must not hand out the tokens of its parent."""
    global _revisions
    _revisions = iter(())


os.register_at_fork(after_in_child=_forget_revisions)
