"""The byte format of a record: what was written is read, and anything else is refused."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.stores.record import (
    RECORD_FORMAT,
    RecordFormatError,
    decode_record,
    encode_record,
)
from tests.stores.test_stores import record_named

HEAD = struct.Struct("<2sBxII")  # as the format says; written out, so that a change is noticed
RECORD = record_named()
DATA = encode_record(RECORD)


def with_head(magic=b"CS", version=RECORD_FORMAT, body=DATA[HEAD.size :]):
    """A record with a right checksum, whatever else is wrong with it."""
    _, _, _, header_bytes = HEAD.unpack_from(DATA)
    return HEAD.pack(magic, version, zlib.crc32(body), header_bytes) + body


def test_a_record_comes_back_as_it_was():
    assert decode_record(DATA, 0.0) == RECORD
    assert decode_record(with_head(), 7.0) == RECORD._replace(expires_at=7.0)


def test_a_record_of_a_later_service_is_refused_with_both_formats():
    with pytest.raises(RecordFormatError, match=r"has format 2, this service reads up to 1"):
        decode_record(with_head(version=RECORD_FORMAT + 1), 0.0)


@pytest.mark.parametrize("data", [b"", b"CS", with_head(magic=b"CT"), b"SQLite format 3\x00" * 9])
def test_bytes_of_another_kind_are_refused(data):
    with pytest.raises(RecordFormatError, match="not a session record"):
        decode_record(data, 0.0)


@pytest.mark.parametrize("num_bytes", [1, 3, 5])
def test_a_record_that_lacks_its_end_is_refused(num_bytes):
    with pytest.raises(RecordFormatError, match="checksum"):
        decode_record(DATA[:-num_bytes], 0.0)
    with pytest.raises(RecordFormatError, match="cut short"):
        decode_record(with_head(body=DATA[HEAD.size : -num_bytes]), 0.0)


@given(st.integers(0, len(DATA) - 1))
def test_a_record_cut_anywhere_is_refused(size):
    with pytest.raises(RecordFormatError):
        decode_record(DATA[:size], 0.0)


@given(st.integers(HEAD.size * 8, len(DATA) * 8 - 1))
def test_a_record_with_one_flipped_bit_is_refused(bit):
    flipped = bytearray(DATA)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RecordFormatError, match="checksum"):
        decode_record(bytes(flipped), 0.0)


@given(st.integers(0, HEAD.size * 8 - 1))
def test_a_flipped_bit_in_the_head_never_gives_another_record(bit):
    flipped = bytearray(DATA)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        found = decode_record(bytes(flipped), 0.0)
    except RecordFormatError:
        return
    assert found == RECORD
