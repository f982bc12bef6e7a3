"""Frames cut on the fast path bring the same messages and refusals as the library alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from service.api.websocket.frames import Frames, text_head, text_of

MAX_BYTES = 70_000

sizes = st.sampled_from([0, 1, 125, 126, 127, 300, 65_535, 65_536, MAX_BYTES, MAX_BYTES + 1])


@st.composite
def frames(draw):
    opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.CONT, *Opcode]))
    size = draw(st.integers(0, 130) if opcode >= Opcode.CLOSE else sizes)
    frame = Frame(opcode, bytes([draw(st.integers(32, 126))]) * size, fin=draw(st.booleans()))
    frame.check = lambda: None  # so that what the library refuses can be made by it
    raw = bytearray(frame.serialize(mask=draw(st.integers(0, 9)) > 0))
    raw[0] |= draw(st.sampled_from([0, 0, 0, 0x40, 0x10, 0x03]))
    return bytes(raw)


def library():
    return ServerProtocol(state=State.OPEN, max_size=MAX_BYTES)


def what_came(conn):
    return [(each.opcode, bytes(each.data), each.fin) for each in conn.events_received()]


@given(st.lists(frames(), max_size=6), st.randoms(use_true_random=False))
def test_cut_in_any_pieces_the_same_comes_as_from_the_library_alone(sent, random):
    data = b"".join(sent)
    alone = library()
    alone.receive_data(data)
    expected = what_came(alone)
    conn, cutter, got = library(), Frames(MAX_BYTES), []
    at = 0
    while at < len(data):
        size = random.choice([1, 2, 3, 7, 200, 66_000])
        for frame, text_at in cutter.cut(data[at : at + size]):
            if text_at and conn.state is State.OPEN and conn.current_size is None:
                got.append((Opcode.TEXT, text_of(frame, text_at), True))
            else:
                conn.receive_data(frame)
                got += what_came(conn)
        at += size
    if alone.parser_exc is None and alone.state is State.OPEN:
        assert got == expected
        assert conn.parser_exc is None
    else:  # what is refused is refused for the same reason, and nothing before it is lost
        assert got[: len(expected)] == expected
        assert type(conn.parser_exc) is type(alone.parser_exc)
        assert str(conn.parser_exc) == str(alone.parser_exc)
    assert conn.state is alone.state


@pytest.mark.parametrize("num_bytes", [0, 1, 125, 126, 65_535, 65_536, 300_000])
def test_a_text_is_sent_as_the_library_would(num_bytes):
    text = b"x" * num_bytes
    assert text_head(num_bytes) + text == Frame(Opcode.TEXT, text).serialize(mask=False)


def test_what_is_held_is_bounded_by_a_frame():
    cutter = Frames(1000)
    head = bytes([0x81, 0x80 | 126]) + (1000).to_bytes(2, "big") + bytes(4)
    assert list(cutter.cut(head)) == []
    for _ in range(999):
        assert list(cutter.cut(b"a")) == []
    [(frame, text_at)] = cutter.cut(b"a")
    assert text_of(frame, text_at) == b"a" * 1000
    lying = bytes([0x81, 0x80 | 127]) + (1 << 62).to_bytes(8, "big") + bytes(4)
    assert list(cutter.cut(lying)) == [(lying, 0)]
