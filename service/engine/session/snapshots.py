"""Snapshots: a session as signed bytes, which any server with the key can restore.

    magic      8 bytes, and 1 of the format
    key id     8 bytes: which key signs
    size       4 bytes, little-endian: of the header
    header     as durable stores write it: tenant, name, model, version, hashes of graph and layout
    data       as in a record, without its replies
    signature  32 bytes: HMAC-SHA256 over all before it

Rule 1: nothing but the key id is read before the signature is verified.
Rule 2: a snapshot is restored only for its tenant, and with the graph that made its state.
Rule 3: a signature proves who made it, not that its values are valid: every value is checked before
        it becomes a session.
"""

import hmac
import struct
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from service.engine.session.sound_record import require_sound
from service.errors import SnapshotRefusedError, SnapshotsOffError, StartUpError
from service.stores.record.checksummed import checksum, decode_record, encode_header
from service.stores.record.history import pack_history
from service.stores.record.record import Record, RecordFormatError, pack_data

SNAPSHOT_FORMAT = 1
_MAGIC = b"CARRYSNP"
_HEAD = struct.Struct("<8sB8sI")
_SIGNATURE_BYTES = 32
_MIN_KEY_CHARS = 32


class SnapshotKeys:
    """The keys of snapshots: the first one signs, each of them verifies."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {_id_of(key): key for key in keys}

    @classmethod
    def read(cls, path: Path | None) -> "SnapshotKeys":
        """Read a file with a key on each line; empty lines and lines with # are ignored.

        Raises:
            StartUpError: the file cannot be read, or has no key or a short one.
        """
        if path is None:
            return cls([])
        where = f"CARRY_SNAPSHOT_KEY_FILE: {path}"
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise StartUpError(f"{where} cannot be read ({error})") from None
        keys = [line.encode() for line in lines if line and not line.startswith("#")]
        if not keys or min(map(len, keys)) < _MIN_KEY_CHARS:
            raise StartUpError(
                f"{where}: expected a key of at least {_MIN_KEY_CHARS} characters on each line,"
                " the signing key first; `openssl rand -hex 32` makes one"
            )
        return cls(keys)

    def seal(self, record: Record) -> bytes:
        """A snapshot of a session.

        Raises:
            SnapshotsOffError: there is no key.
        """
        self.require_any()
        key_id, key = next(iter(self._keys.items()))
        header = encode_header(replace(record.header, outputs=b""))
        data = pack_data(
            record.step, record.state, record.cursor, b"", 0, record.ttl_s, record.updated_at,
            history=pack_history(record.history._replace(keys=())),
        )  # fmt: skip
        head = _HEAD.pack(_MAGIC, SNAPSHOT_FORMAT, key_id, len(header))
        signed = b"".join((head, header, data))
        return signed + _sign(key, signed)

    def open(self, snapshot: bytes) -> Record:
        """The session of a snapshot, after verifying it.

        Raises:
            SnapshotsOffError: there is no key.
            SnapshotRefusedError: not a snapshot, altered, or of an unknown key or format.
        """
        self.require_any()
        if len(snapshot) < _HEAD.size + _SIGNATURE_BYTES or not snapshot.startswith(_MAGIC):
            raise SnapshotRefusedError(
                "the body is not a snapshot: expected the bytes that GET …/snapshot returned"
            )
        _, version, key_id, header_bytes = _HEAD.unpack_from(snapshot)
        signed, signature = snapshot[:-_SIGNATURE_BYTES], snapshot[-_SIGNATURE_BYTES:]
        key = self._keys.get(key_id)
        if key is None:
            raise SnapshotRefusedError(
                "the snapshot was altered, or signed with a key that this server does not have:"
                " add that key to its CARRY_SNAPSHOT_KEY_FILE"
            )
        if not hmac.compare_digest(_sign(key, signed), signature):
            raise SnapshotRefusedError("the snapshot was altered: its signature is wrong")
        _require_known(version)
        header = signed[_HEAD.size : _HEAD.size + header_bytes]
        data = signed[_HEAD.size + header_bytes :]
        try:
            record = decode_record(header, checksum(header), data, checksum(data))
            require_sound(record)
        except RecordFormatError as error:  # of a later service, with the same key
            raise SnapshotRefusedError(f"the snapshot cannot be read: {error.detail}") from None
        except ValueError as error:
            raise SnapshotRefusedError(
                f"the snapshot is not of a valid session: {error}; take another one"
            ) from None
        return record

    def require_any(self) -> None:
        """Raise SnapshotsOffError unless there is a key."""
        if not self._keys:
            raise SnapshotsOffError(
                "snapshots are signed, and this server has no key: set CARRY_SNAPSHOT_KEY_FILE to"
                " a file with a key of at least 32 characters, the same for all replicas"
            )


def _require_known(version: int) -> None:
    if version == SNAPSHOT_FORMAT:
        return
    remedy = (
        "it was made by a later service: upgrade this one"
        if version > SNAPSHOT_FORMAT
        else "no version of the service makes that: take another one"
    )
    raise SnapshotRefusedError(
        f"expected a snapshot of format {SNAPSHOT_FORMAT}, found format {version}; {remedy}"
    )


def _id_of(key: bytes) -> bytes:
    return blake2b(key, digest_size=8, person=b"snapshot-key-id").digest()


def _sign(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")
