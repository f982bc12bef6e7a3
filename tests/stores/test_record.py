"""The byte format of a record: packed data is read, anything else is refused."""

import os
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.text import UNREAD, TextCursor
from service.stores.record.batch_pack import pack_batch
from service.stores.record.record import (
    RECORD_FORMAT,
    Key,
    Record,
    RecordFormatError,
    check_data,
    pack_data,
    revision_of,
    ttl_s_of,
)
from service.stores.record.replies import KeptReply, pack_reply
from service.stores.record.revision import new_revision
from tests.stores.support import record_named

# The documented format, written out to detect changes.
HEAD = struct.Struct("<2sBB16sqddIIIq")
REPLY = struct.Struct("<qII16s")
DATA = record_named().data

steps = st.integers(0, 2**62)
times = st.floats(0, 4e9)
digests = st.binary(min_size=16, max_size=16)
replies = st.builds(
    KeptReply, steps, st.integers(0, 2**32 - 1), digests, st.binary(max_size=40), st.just(b"")
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def head(**changes):
    fields = dict(zip(HEAD_FIELDS, HEAD.unpack_from(DATA), strict=True)) | changes
    return HEAD.pack(*fields.values())


HEAD_FIELDS = (
    "magic", "format", "closed", "revision", "step", "updated_at", "ttl_s", "state_bytes",
    "pending_bytes", "num_replies", "num_tokens",
)  # fmt: skip


@given(
    steps,
    st.binary(max_size=100),
    st.builds(TextCursor, texts, steps),
    st.lists(replies, max_size=4),
    times,
    times,
    st.sampled_from(["", "deleted", "final"]),
)
def test_the_properties_of_a_record_are_what_was_packed(
    step, state, cursor, ring, ttl_s, updated_at, closed
):
    packed = b"".join(pack_reply(*reply[:4]) for reply in ring)
    data = pack_data(step, state, cursor, packed, len(ring), ttl_s, updated_at, closed)
    check_data(data)
    header = record_named("b", "u").header
    record = Record(header, data, 7.0, 5)
    assert (record.step, record.state, record.state_bytes) == (step, state, len(state))
    assert (record.cursor, record.ttl_s, record.updated_at) == (cursor, ttl_s, updated_at)
    assert (record.replies, record.kept_replies, record.num_replies) == (
        packed,
        tuple(ring),
        len(ring),
    )
    assert (record.closed, record.revision) == (closed, revision_of(data))
    assert (record.key, record.expires_at, record.rowid) == (Key("u", "b"), 7.0, 5)
    assert ttl_s_of(data) == ttl_s


def test_the_bytes_are_as_documented():
    data = pack_data(5, b"st", TextCursor("é", 9), pack_reply(4, 1, b"d" * 16, b"o"), 1, 2.5, 3.5)
    assert data == b"".join(
        (
            HEAD.pack(b"CS", 1, 0, revision_of(data), 5, 3.5, 2.5, 2, 2, 1, 9),
            b"st",
            "é".encode(),
            REPLY.pack(4, 1, 1, b"d" * 16),
            b"o",
        )
    )


def test_every_record_is_packed_under_a_revision_of_its_own():
    one, two = (pack_data(0, b"", UNREAD, b"", 0, 1.0, 0.0) for _ in range(2))
    rows = np.zeros((50, 4), np.uint8)
    alike = pack_batch(np.arange(50), [1] * 50, [1.0] * 50, rows, [bytes(16)] * 50, rows, 0.0)
    assert len({revision_of(data) for data in [one, two, *alike]}) == 52


def test_a_forked_process_hands_out_revisions_of_its_own():
    new_revision()  # fills the supply of tokens
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.write(write_end, b"".join(new_revision() for _ in range(300)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read_end, 16 * 300)
    os.close(read_end)
    os.close(write_end)
    of_child = {theirs[index : index + 16] for index in range(0, len(theirs), 16)}
    assert len(of_child) == 300
    assert of_child.isdisjoint(new_revision() for _ in range(300))


def test_a_record_of_a_later_service_is_refused_with_both_formats():
    later = head(format=RECORD_FORMAT + 1) + DATA[HEAD.size :]
    with pytest.raises(RecordFormatError, match=r"has format 3, this service reads up to 2"):
        check_data(later)


@pytest.mark.parametrize(
    "data", [b"", b"CS", head(magic=b"CT") + DATA[HEAD.size :], b"SQLite format 3\x00" * 9]
)
def test_bytes_of_another_kind_are_refused(data):
    with pytest.raises(RecordFormatError, match="not a session record"):
        check_data(data)


@given(st.integers(0, len(DATA) - 1))
def test_truncated_data_is_refused(size):
    with pytest.raises(RecordFormatError):
        check_data(DATA[:size])


@pytest.mark.parametrize(
    "changes",
    [
        {"closed": 3},
        {"closed": 255},
        {"state_bytes": 2**32 - 1},
        {"pending_bytes": 2**31},
        {"num_replies": 1},
        {"num_replies": 3},
    ],
    ids=str,
)
def test_a_head_that_does_not_fit_what_follows_is_refused(changes):
    with pytest.raises(RecordFormatError, match="damaged"):
        check_data(head(**changes) + DATA[HEAD.size :])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_are_refused(tail):
    """Never another error, because lists omit only refused records."""
    for data in (tail, DATA[: HEAD.size] + tail, DATA + tail):
        try:
            check_data(data)
        except RecordFormatError:
            continue
        record = Record(record_named().header, data)
        assert len(record.kept_replies) == record.num_replies


@given(st.integers(0, len(DATA) * 8 - 1))
def test_a_checked_record_can_be_read_in_all_its_parts(bit):
    flipped = bytearray(DATA)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        check_data(bytes(flipped))
    except RecordFormatError:
        return
    record = Record(record_named().header, bytes(flipped))
    assert len(record.kept_replies) == record.num_replies
    assert len(record.state) == record.state_bytes
    assert record.closed in ("", "deleted", "final")
