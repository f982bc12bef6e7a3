"""Format 2 stores the history of a session; a session without one has format 1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.text import NO_TEXT, TextCursor
from service.stores.record.checksummed import checksum, decode_record, encode_header
from service.stores.record.history import (
    Checkpoint,
    History,
    HistoryPolicy,
    pack_history,
    unpack_history,
)
from service.stores.record.record import Record, RecordFormatError, check_data, pack_data
from service.stores.record.replies import KeptReply, pack_reply
from tests.stores.support import record_named

steps = st.integers(0, 2**62)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.one_of(st.just(b""), st.binary(min_size=16, max_size=16).filter(any))
replies = st.builds(
    KeptReply, steps, st.integers(0, 9), st.binary(min_size=16, max_size=16), st.binary(), keys
)
checkpoints = st.builds(
    Checkpoint, steps, st.binary(max_size=40), st.builds(TextCursor, texts, steps)
)
pasts = st.tuples(
    st.lists(checkpoints, max_size=3).map(tuple),
    st.lists(st.binary(max_size=20), max_size=3).map(tuple),
)

OLD_FORMAT = 1


def packed(ring, checkpoints, observations):
    kept = History(tuple(reply.key for reply in ring), checkpoints, observations)
    together = b"".join(pack_reply(*reply[:4]) for reply in ring)
    return pack_data(
        7, b"state", NO_TEXT, together, len(ring), 1.0, 0.0, history=pack_history(kept)
    )


SAMPLE = packed(
    [KeptReply(3, 1, b"d" * 16, b"out", b"k" * 16)],
    (Checkpoint(2, b"earlier", TextCursor("é", 4)),),
    (b"r1234", b"r5678"),
)


@given(st.lists(replies, max_size=3), pasts)
def test_a_history_unpacks_to_what_was_packed(ring, past):
    checkpoints, observations = past
    data = packed(ring, checkpoints, observations)
    check_data(data)
    record = Record(record_named().header, data)
    assert record.kept_replies == tuple(ring)
    assert record.history.checkpoints == checkpoints
    assert record.history.observations == observations
    assert (record.state, record.step, record.num_replies) == (b"state", 7, len(ring))


@given(st.lists(replies, max_size=3), pasts)
def test_a_record_has_the_oldest_format_that_can_hold_it(ring, past):
    needs_more = any(past) or any(reply.key for reply in ring)
    data = packed(ring, *past)
    assert data[2] == (2 if needs_more else OLD_FORMAT)
    assert Record(record_named().header, data).is_plain == (not needs_more)


@pytest.mark.parametrize("size", range(len(SAMPLE)))
def test_a_truncated_history_is_refused(size):
    with pytest.raises(RecordFormatError):
        check_data(SAMPLE[:size])


@pytest.mark.parametrize("extra", [b"\0", b"x" * 40])
def test_bytes_after_a_history_are_refused(extra):
    with pytest.raises(RecordFormatError, match="there are bytes after its history"):
        check_data(SAMPLE + extra)


def test_a_wrong_number_of_keys_is_refused():
    kept = pack_history(History((b"k" * 16, b"l" * 16)))
    data = pack_data(1, b"", NO_TEXT, pack_reply(0, 1, b"d" * 16, b""), 1, 1.0, 0.0, history=kept)
    with pytest.raises(RecordFormatError, match="keys of replies"):
        check_data(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_history_or_are_refused(tail):
    try:
        kept = unpack_history(tail)
    except ValueError:
        return
    assert unpack_history(pack_history(kept)) == kept


@pytest.mark.parametrize("keeps", [None, HistoryPolicy(3, 2, 1)])
def test_an_opening_has_the_oldest_format_that_can_hold_it(keeps):
    record = record_named(keeps=keeps)
    sealed = encode_header(record.header)
    assert (b'"format":1' in sealed) == (keeps is None)
    found = decode_record(sealed, checksum(sealed), SAMPLE, checksum(SAMPLE))
    assert found.header == record.header
