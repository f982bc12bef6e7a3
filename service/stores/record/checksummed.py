"""Records as durable stores write them: each part with a checksum, the header as JSON.

Rule 1: a part that does not match its checksum is refused.
Rule 2: the header names its format, as `data` does.
"""

import zlib
from typing import Any

import orjson

from service.stores.record.history import HistoryPolicy
from service.stores.record.record import (
    ModelFingerprint,
    Record,
    RecordFormatError,
    SessionHeader,
    check_data,
)

HEADER_FORMAT = 2
"""The latest that is read; 1 is written for sessions without a history."""

checksum = zlib.crc32


def encode_header(header: SessionHeader) -> bytes:
    """The header as a line of JSON with its format."""
    later = {} if header.keeps is None else {"format": 2, "keeps": list(header.keeps)}
    return orjson.dumps(
        {
            "format": 1,
            "tenant": header.tenant,
            "name": header.name,
            "origin": list(header.fingerprint),
            "start_s": header.start_s,
            "ring_size": header.ring_size,
            "created_at": header.created_at,
            "metadata": header.metadata,
            "history": header.history,
            "digest": header.digest.hex(),
            "outputs": header.outputs.hex(),
        }
        | later
    )


def decode_record(
    header: bytes,
    header_checksum: int,
    data: bytes,
    data_checksum: int,
    expires_at: float = 0.0,
    rowid: int = 0,
) -> Record:
    """Decode a stored record.

    Raises:
        RecordFormatError: damaged, truncated, or written by a later service.
    """
    for part, expected in ((header, header_checksum), (data, data_checksum)):
        if checksum(part) != expected:
            raise RecordFormatError(
                f"session record is damaged: expected checksum {expected:08x}, found"
                f" {checksum(part):08x}; restore a backup, or open a session of another name"
            )
    check_data(data)
    return Record(_decode_header(header), data, expires_at, rowid)


def _decode_header(encoded: bytes) -> SessionHeader:
    try:
        fields: dict[str, Any] = orjson.loads(encoded)
        version = fields.pop("format")
        if version > HEADER_FORMAT:
            raise RecordFormatError(
                f"session record has header format {version}, this service reads up to"
                f" {HEADER_FORMAT}: it was written by a later service; upgrade this one"
            )
        fields["fingerprint"] = ModelFingerprint(*fields.pop("origin"))
        fields["digest"] = bytes.fromhex(fields["digest"])
        fields["outputs"] = bytes.fromhex(fields["outputs"])
        if "keeps" in fields:
            fields["keeps"] = HistoryPolicy(*fields["keeps"])
        return SessionHeader(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordFormatError(f"session record is damaged: {error}") from None
