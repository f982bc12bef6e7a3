"""The encoding of durable stores: an encoded record decodes to itself, anything else is refused."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.stores.record.checksummed import (
    HEADER_FORMAT,
    checksum,
    decode_record,
    encode_header,
)
from service.stores.record.record import (
    RECORD_FORMAT,
    ModelFingerprint,
    RecordFormatError,
    SessionHeader,
)
from tests.stores.support import record_named

RECORD = record_named()
OPENING = encode_header(RECORD.header)
DATA = RECORD.data

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
headers = st.builds(
    SessionHeader,
    tenant=texts,
    name=texts,
    fingerprint=st.builds(ModelFingerprint, texts, texts, texts, texts),
    start_s=st.none() | st.integers(-(2**40), 2**40),
    ring_size=st.integers(1, 100),
    created_at=st.floats(0, 4e9),
    metadata=st.none() | st.dictionaries(texts, st.integers(0, 9) | texts | st.none(), max_size=3),
    history=st.integers(0, 2**40),
    digest=st.binary(min_size=16, max_size=16),
    outputs=st.binary(max_size=40),
)


def sealed(header=OPENING, data=DATA):
    """Decodes both parts with matching checksums, valid or not."""
    return decode_record(header, checksum(header), data, checksum(data))


def opening_with(**changes):
    return orjson.dumps(orjson.loads(OPENING) | changes)


@given(headers)
def test_a_record_decodes_to_what_was_encoded(header):
    parts = encode_header(header)
    record = decode_record(parts, checksum(parts), DATA, checksum(DATA), 7.0, 5)
    assert record == RECORD._replace(header=header, expires_at=7.0, rowid=5)


def test_an_opening_of_a_later_service_is_refused_with_both_formats():
    with pytest.raises(RecordFormatError, match="header format 3, this service reads up to 2"):
        sealed(opening_with(format=HEADER_FORMAT + 1))


def test_data_of_a_later_service_is_refused():
    with pytest.raises(RecordFormatError, match="later service"):
        sealed(data=DATA[:2] + bytes([RECORD_FORMAT + 1]) + DATA[3:])


@given(st.integers(0, len(OPENING) - 1))
def test_a_truncated_header_is_refused(size):
    with pytest.raises(RecordFormatError, match="checksum"):
        decode_record(OPENING[:size], checksum(OPENING), DATA, checksum(DATA))
    with pytest.raises(RecordFormatError, match="damaged"):
        sealed(OPENING[:size])


@given(st.integers(0, len(DATA) - 1))
def test_truncated_data_is_refused(size):
    with pytest.raises(RecordFormatError, match="checksum"):
        decode_record(OPENING, checksum(OPENING), DATA[:size], checksum(DATA))
    with pytest.raises(RecordFormatError):
        sealed(data=DATA[:size])


@given(st.integers(0, len(OPENING) * 8 - 1))
def test_an_opening_with_one_flipped_bit_is_refused(bit):
    with pytest.raises(RecordFormatError, match="checksum"):
        decode_record(flipped(OPENING, bit), checksum(OPENING), DATA, checksum(DATA))


@given(st.integers(0, len(DATA) * 8 - 1))
def test_data_with_one_flipped_bit_is_refused(bit):
    with pytest.raises(RecordFormatError, match="checksum"):
        decode_record(OPENING, checksum(OPENING), flipped(DATA, bit), checksum(DATA))


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"\xff",
        opening_with(format=None),
        opening_with(format="1"),
        opening_with(origin=None),
        opening_with(origin=["load"]),
        opening_with(digest="no hex"),
        opening_with(digest=None),
        opening_with(outputs=3),
        opening_with(surprise=1),
        orjson.dumps({k: v for k, v in orjson.loads(OPENING).items() if k != "format"}),
        orjson.dumps({k: v for k, v in orjson.loads(OPENING).items() if k != "digest"}),
        orjson.dumps({k: v for k, v in orjson.loads(OPENING).items() if k != "tenant"}),
    ],
)
def test_an_opening_of_another_kind_is_refused_as_damaged(header):
    with pytest.raises(RecordFormatError, match="damaged"):
        sealed(header)
