"""The record of one session: all that a replica needs to take it over, and its byte format.

Rule 1: a record is immutable; every write carries a new one with a fresh random `revision`.
Rule 2: the byte format names its version; a service reads every version up to its own and
        refuses a later one (`RecordFormatError`) instead of guessing.
Rule 3: replies are kept as packed outputs, not as JSON: a retry may come by another transport.
"""

import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from service.contract.text import TextCursor
from service.errors import RecordUnreadableError

RECORD_FORMAT = 1
_MAGIC = b"CS"
_HEAD = struct.Struct("<2sBxII")  # magic, format, pad, checksum of the rest, header bytes

PackedOutputs = bytes
"""Answered steps, packed by the model's `OutputLayout`; empty where nothing was answered."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is fixed when a session is opened, with the reply to that.

    A state means something only to the graph that made it: `graph_sha256`. `state_schema` says
    which other graphs may be given it on purpose. `start_s` is the time of row 0 where the model
    uses time, in seconds since the epoch.
    """

    tenant: str
    name: str
    model: str
    version: str
    state_schema: str
    graph_sha256: str
    start_s: int | None = None
    ring_size: int = 1
    created_at: float
    metadata: dict[str, Any] = field(default_factory=dict)
    reply: KeptReply


class Record(NamedTuple):
    """A session as the store keeps it. Times are seconds since the epoch, UTC.

    A tuple, because one is made for every step. `expires_at` is the store's to set, when it
    commits. A closed record is a tombstone: no state, only the last replies.
    """

    opening: Opening
    revision: bytes
    step: int
    state: bytes
    cursor: TextCursor
    ring: tuple[KeptReply, ...]
    ttl_s: float
    updated_at: float
    expires_at: float = 0.0
    closed: str = ""

    @property
    def key(self) -> Key:
        return Key(self.opening.tenant, self.opening.name)


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


def encode_record(record: Record) -> bytes:
    """Header as JSON, then the state and the outputs of the replies, end to end."""
    blobs: list[bytes] = [record.state]
    opening = record.opening
    header = {
        "opening": {
            "tenant": opening.tenant,
            "name": opening.name,
            "model": opening.model,
            "version": opening.version,
            "state_schema": opening.state_schema,
            "graph_sha256": opening.graph_sha256,
            "start_s": opening.start_s,
            "ring_size": opening.ring_size,
            "created_at": opening.created_at,
            "metadata": opening.metadata,
            "reply": _describe_reply(opening.reply, blobs),
        },
        "revision": record.revision.hex(),
        "step": record.step,
        "state_bytes": len(record.state),
        "cursor": [record.cursor.pending, record.cursor.num_tokens],
        "ring": [_describe_reply(reply, blobs) for reply in record.ring],
        "ttl_s": record.ttl_s,
        "updated_at": record.updated_at,
        "closed": record.closed,
    }
    head = orjson.dumps(header)
    body = b"".join([head, *blobs])
    return _HEAD.pack(_MAGIC, RECORD_FORMAT, zlib.crc32(body), len(head)) + body


def decode_record(data: bytes, expires_at: float) -> Record:
    """Bytes of any known format → a record.

    Raises:
        RecordFormatError: not a record, cut short, or written by a later service.
    """
    if len(data) < _HEAD.size or data[:2] != _MAGIC:
        raise RecordFormatError("not a session record: the store holds something else")
    _, version, checksum, head_bytes = _HEAD.unpack_from(data)
    if version > RECORD_FORMAT:
        raise RecordFormatError(
            f"session record has format {version}, this service reads up to {RECORD_FORMAT}:"
            " it was written by a later service; upgrade this one"
        )
    body = memoryview(data)[_HEAD.size :]
    if zlib.crc32(body) != checksum:
        raise RecordFormatError("session record is damaged: its checksum does not fit")
    try:
        header = orjson.loads(body[:head_bytes])
        blobs = _Blobs(body[head_bytes:])
        state = blobs.take(header["state_bytes"])
        opening = header["opening"]
        opening["reply"] = _read_reply(opening["reply"], blobs)
        return Record(
            opening=Opening(**opening),
            revision=bytes.fromhex(header["revision"]),
            step=header["step"],
            state=state,
            cursor=TextCursor(*header["cursor"]),
            ring=tuple(_read_reply(reply, blobs) for reply in header["ring"]),
            ttl_s=header["ttl_s"],
            updated_at=header["updated_at"],
            expires_at=expires_at,
            closed=header["closed"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RecordFormatError(f"session record is damaged: {error}") from None


def _describe_reply(reply: KeptReply, blobs: list[bytes]) -> list[Any]:
    blobs.append(reply.outputs)
    return [reply.from_step, reply.num_observed, reply.digest.hex(), len(reply.outputs)]


def _read_reply(described: list[Any], blobs: "_Blobs") -> KeptReply:
    from_step, num_observed, digest, num_bytes = described
    return KeptReply(from_step, num_observed, bytes.fromhex(digest), blobs.take(num_bytes))


class _Blobs:
    """Takes runs of bytes off one buffer, in the order in which they were written."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._position = 0

    def take(self, size: int) -> bytes:
        start, self._position = self._position, self._position + size
        if self._position > len(self._buffer):
            raise ValueError("cut short")
        return bytes(self._buffer[start : self._position])
