"""The record of one session: all that a replica needs to continue it, and its byte format.

A record has two parts: its `SessionHeader`, fixed when the session is opened, and `data`, which
every step replaces. `data` is one byte string, little-endian, and stores write it unchanged:

    head      64 bytes, see `_HEAD`
    state     the packed state of the model
    pending   text that may still change, UTF-8
    replies   oldest first; each 32 bytes (see `stores/record/replies.py`) and the packed outputs
    history   format 2 only, see `stores/record/history.py`

Rule 1: a record is immutable; every write carries a new one with a fresh random `revision`.
Rule 2: both parts name their format; a service reads every format up to its own and refuses a
        later one (`RecordFormatError`).
Rule 3: a record is written in the oldest format that can hold it, so that services of both formats
        can share a store during an upgrade.
Rule 4: replies are kept as packed outputs, not as JSON: a retry may use another transport.
"""

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

from service.contract.text import TextCursor
from service.errors import RecordUnreadableError
from service.stores.record.history import NO_HISTORY, History, HistoryPolicy, unpack_history
from service.stores.record.replies import KeptReply, PackedReplies, size_of_replies, unpack_replies
from service.stores.record.revision import REVISION_BYTES, new_revision

RECORD_FORMAT = 2
"""The latest that this service reads."""
PLAIN_FORMAT = 1
"""Of records without a history."""

MAGIC = b"CS"
# magic, format, why it is closed, revision, step, updated_at, ttl_s, bytes of the state, bytes of
# the pending text, number of replies, tokens read so far
_HEAD = struct.Struct("<2sBB16sqddIIIq")
_CLOSED = ("", "deleted", "final")
# Read at every step, therefore without the rest of the head.
_STEP, _STEP_AT = struct.Struct("<q"), 20
_TTL_S, _TTL_S_AT = struct.Struct("<d"), 36
_STATE_BYTES, _STATE_BYTES_AT = struct.Struct("<I"), 44
_FORMAT_AT, _CLOSED_AT, _REVISION_AT = 2, 3, 4

STATE_AT = _HEAD.size
"""The offset of the state in `data`."""

PackedOutputs = bytes
"""The outputs of steps, packed by the model's `OutputLayout`; empty if there are none."""


class RecordFormatError(RecordUnreadableError):
    """Bytes in the store that this service cannot read."""


class Key(NamedTuple):
    """A session's name is unique within its tenant."""

    tenant: str
    name: str


class ModelFingerprint(NamedTuple):
    """The model that computed a state. Only the graph with this hash can continue it.

    `state_schema` identifies the other graphs to which an upgrade may move it.
    """

    model: str
    version: str
    state_schema: str
    graph_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHeader:
    """Fixed when a session is opened, restored or upgraded; includes the reply to that request.

    `start_s` is the time of row 0 if the model uses time, in seconds since the epoch. `history`
    is the number of observations of the opening request; `digest` and `outputs` belong to that
    request. `ring_size` is the number of kept replies; `keeps` is None if the session has no
    history.
    """

    tenant: str
    name: str
    fingerprint: ModelFingerprint
    start_s: int | None = None
    ring_size: int = 1
    created_at: float
    metadata: dict[str, Any] | None = None
    history: int = 0
    digest: bytes
    outputs: PackedOutputs = b""
    keeps: HistoryPolicy | None = None

    @property
    def model(self) -> str:
        return self.fingerprint.model

    @property
    def version(self) -> str:
        return self.fingerprint.version


class Record(NamedTuple):
    """A session as it is stored. Times are seconds since the epoch, UTC.

    The store sets `expires_at` and `rowid` (SQLite only). A closed record is a tombstone: no state,
    only the last replies.
    """

    header: SessionHeader
    data: bytes
    expires_at: float = 0.0
    rowid: int = 0

    @property
    def key(self) -> Key:
        return Key(self.header.tenant, self.header.name)

    @property
    def revision(self) -> bytes:
        return revision_of(self.data)

    @property
    def step(self) -> int:
        return int(_STEP.unpack_from(self.data, _STEP_AT)[0])

    @property
    def closed(self) -> str:
        """Why the session ended; "" while it is open."""
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
        """How much of a text has been read, and which part of it may still change."""
        head = self._head
        start = STATE_AT + head.state_bytes
        pending = self.data[start : start + head.pending_bytes].decode()
        return TextCursor(pending, head.num_tokens)

    @property
    def replies(self) -> PackedReplies:
        head = self._head
        replies = self.data[STATE_AT + head.state_bytes + head.pending_bytes :]
        if head.format == PLAIN_FORMAT:
            return replies
        return replies[: size_of_replies(replies, head.num_replies)]

    @property
    def kept_replies(self) -> tuple[KeptReply, ...]:
        """The last replies, for retries, oldest first."""
        replies = tuple(unpack_replies(self.replies))
        keys = self.history.keys
        if not keys:
            return replies
        return tuple([reply._replace(key=key) for reply, key in zip(replies, keys, strict=True)])

    @property
    def history(self) -> History:
        """Keys of the replies, past states and past observations."""
        if self.is_plain:
            return NO_HISTORY
        head = self._head
        tail = self.data[STATE_AT + head.state_bytes + head.pending_bytes :]
        return unpack_history(tail[size_of_replies(tail, head.num_replies) :])

    @property
    def is_plain(self) -> bool:
        """It has no history, and its replies have no keys."""
        return self.data[_FORMAT_AT] == PLAIN_FORMAT

    @property
    def num_replies(self) -> int:
        return self._head.num_replies

    @property
    def _head(self) -> "_Head":
        return _Head(*_HEAD.unpack_from(self.data))


def revision_of(data: bytes) -> bytes:
    """The revision of a record that is not stored yet."""
    return data[_REVISION_AT : _REVISION_AT + REVISION_BYTES]


def is_closed(data: bytes) -> bool:
    return bool(data[_CLOSED_AT])


def ttl_s_of(data: bytes) -> float:
    """The time to live of a record that is not stored yet."""
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
    history: bytes = b"",
) -> bytes:
    """The `data` of a new record, with a fresh revision. `pack_history` packs `history`."""
    pending = cursor.pending.encode() if cursor.pending else b""
    head = _HEAD.pack(
        MAGIC, RECORD_FORMAT if history else PLAIN_FORMAT, _CLOSED.index(closed), new_revision(),
        step, updated_at, ttl_s, len(state), len(pending), num_replies, cursor.num_tokens,
    )  # fmt: skip
    return b"".join((head, state, pending, replies, history))


def check_data(data: bytes) -> None:
    """Raise RecordFormatError unless `data` is a whole record of a known format."""
    if len(data) < _HEAD.size or data[:2] != MAGIC:
        raise RecordFormatError("not a session record: expected one that starts with CS")
    head = _Head(*_HEAD.unpack_from(data))
    if not 1 <= head.format <= RECORD_FORMAT:
        raise RecordFormatError(
            f"session record has format {head.format}, this service reads up to {RECORD_FORMAT}:"
            " it was written by a later service; upgrade this one"
        )
    position = _HEAD.size + head.state_bytes + head.pending_bytes
    if position > len(data) or head.closed >= len(_CLOSED):
        raise RecordFormatError("session record is damaged: it is truncated")
    try:
        _check_tail(head, data[position:])
    except ValueError as error:
        raise RecordFormatError(f"session record is damaged: {error}") from None


def _check_tail(head: _Head, tail: bytes) -> None:
    if head.format == PLAIN_FORMAT:
        if sum(1 for _ in unpack_replies(tail)) != head.num_replies:
            raise ValueError("a kept reply is missing")
        return
    history = tail[size_of_replies(tail, head.num_replies) :]
    if not history:
        raise ValueError("its history is missing")
    keys = unpack_history(history).keys
    if keys and len(keys) != head.num_replies:
        raise ValueError(f"expected {head.num_replies} keys of replies, found {len(keys)}")
