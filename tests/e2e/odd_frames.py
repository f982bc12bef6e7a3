"""WebSocket frames made by hand, sound and unsound, each with what must become of its stream.

OPEN      it goes on: the message gets one answer, or none where it is a control frame
CUT       the server waits for the rest; the client leaves
a set     it is closed, with one of these codes
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

OPEN, CUT = "open", "cut"
LIMIT = 256 * 1024
PROTOCOL, UNSUPPORTED, NOT_UTF8, POLICY, TOO_BIG = {1002}, {1003}, {1007}, {1008}, {1009}

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Odd(NamedTuple):
    """`answers`: how many messages come back for it while the stream stays open."""

    data: bytes
    outcome: str | set[int]
    answers: int = 0


def frame(
    payload: bytes,
    opcode: int = TEXT,
    *,
    fin: bool = True,
    masked: bool = True,
    reserved: int = 0,
    announced: int | None = None,
) -> bytes:
    """One frame; `announced` lies about its length."""
    size = len(payload) if announced is None else announced
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if size < 126:
        head = bytes([first, mask_bit | size])
    elif size < 1 << 16:
        head = bytes([first, mask_bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, mask_bit | 127]) + size.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if masked else b"") + payload


def in_pieces(data: bytes, chance: random.Random) -> bytes:
    """One message in fragments, with pings in between, as the protocol allows."""
    cuts = sorted(chance.sample(range(len(data) + 1), k=min(len(data), chance.randint(1, 9))))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    frames = []
    for place, piece in enumerate(pieces):
        opcode = 0 if place else TEXT
        frames.append(frame(piece, opcode, fin=place == len(pieces) - 1))
        if chance.random() < 0.5 and place < len(pieces) - 1:
            frames.append(frame(chance.randbytes(chance.randint(0, 125)), PING))
    return b"".join(frames)


ODD_VALUES = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 5000, b'"1"', b"true", b"{}",
    b"[]", b'"\\ud800"', b'"\\u0000"', b"0x1", b"1.", b"--1", b"null,", b"\x00", b"'1'",
)  # fmt: skip
ODD_MESSAGES = (
    b"", b" ", b"{", b"null", b"0", b'""', b"[]", b"{}", b"[" * 100_000, b'{"a":' * 50_000,
    b'{"observations":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    b'{"observations": [], "session": "s"}', b'{"observations": "x", "session": "s"}',
    b'{"text": "t", "session": "s"}', b'{"tensors": {"x": [1]}, "session": "s"}',
    b'{"step": -1, "observations": [[1, 2]], "session": "s"}',
    b'{"step": 1e400, "observations": [[1, 2]], "session": "s"}',
    b'{"step": 99999999999999999999, "observations": [[1, 2]], "session": "s"}',
    b'{"step": "0", "observations": [[1, 2]], "session": "s"}',
    b'{"session": "nobody", "observations": [[1, 2]]}', b'{"session": "../s", "text": ""}',
    b'{"session": ["s"], "observations": [[1, 2]]}', b'{"session": "s", "emit": "none"}',
    b'{"id": "' + b"x" * 1000 + b'", "session": "s", "observations": [[1, 2, 3]]}',
    b'{"id": [[]], "session": "s", "observations": [[1, 2]]}',
    b'{"session": "s", "observations": [' + b"[1,2,3]," * 20_000 + b"[1,2]]}",
    b'{"session": "s", "observations": [' + b"{}," * 60_000 + b"{}]",
    b'{"session": "s", ' + b'"x":1,' * 30_000 + b'"observations": [[1, 2]]}',
)  # fmt: skip


def _odd_value(chance: random.Random) -> Odd:
    step = b'{"session": "s", "observations": [[%s, 1]]}' % chance.choice(ODD_VALUES)
    return Odd(frame(step), OPEN, 1)


def _altered_json(chance: random.Random) -> Odd:
    step = bytearray(b'{"session": "s", "step": 3, "observations": [{"load": 1.5}, [2, null]]}')
    for _ in range(chance.randint(1, 5)):
        step[chance.randrange(len(step))] = chance.choice(b'{}[]",:0-.e\\ \tnx')
    return Odd(
        frame(bytes(step[: chance.choice((len(step), chance.randrange(len(step))))])), OPEN, 1
    )


def _close_with(chance: random.Random) -> Odd:
    code = chance.choice((0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535))
    payloads = (b"\x03", code.to_bytes(2, "big"), b"\x03\xe8\xff\xfe")
    return Odd(frame(chance.choice(payloads), CLOSE), PROTOCOL | NOT_UTF8)


KINDS: dict[str, Callable[[random.Random], Odd]] = {
    "a message that is none": lambda c: Odd(frame(c.choice(ODD_MESSAGES)), OPEN, 1),
    "an odd value": _odd_value,
    "altered JSON": _altered_json,
    "noise as text": lambda c: Odd(frame(bytes(c.choices(range(32, 127), k=200))), OPEN, 1),
    "an odd message in pieces": lambda c: Odd(in_pieces(c.choice(ODD_MESSAGES), c), OPEN, 1),
    "a ping": lambda c: Odd(frame(c.randbytes(c.randint(0, 125)), PING), OPEN),
    "a pong that nobody asked for": lambda c: Odd(frame(c.randbytes(8), PONG), OPEN),
    "a length that is wider than it need be": lambda _: Odd(
        b"\x81\xff" + (2).to_bytes(8, "big") + b"\0\0\0\0{}", OPEN, 1
    ),
    "binary": lambda c: Odd(frame(c.randbytes(20), BINARY), UNSUPPORTED),
    "binary in pieces": lambda c: Odd(
        frame(c.randbytes(9), BINARY, fin=False) + frame(c.randbytes(9), 0) * 3,
        UNSUPPORTED | PROTOCOL,
    ),
    "no UTF-8": lambda _: Odd(frame(b'"\xff\xfe"'), NOT_UTF8),
    "half a character in each piece": lambda _: Odd(
        frame(b'"\xc3', fin=False) + frame(b'\x28"', 0), NOT_UTF8
    ),
    "unmasked": lambda _: Odd(frame(b"{}", masked=False), PROTOCOL),
    "reserved bits": lambda c: Odd(frame(b"{}", reserved=c.randint(1, 7)), PROTOCOL),
    "an opcode that is none": lambda c: Odd(
        frame(b"{}", c.choice((3, 4, 5, 6, 7, 11, 12, 13, 14, 15))), PROTOCOL
    ),
    "the middle of a message": lambda c: Odd(frame(b"{}", 0, fin=c.random() < 0.5), PROTOCOL),
    "a message within a message": lambda _: Odd(frame(b"{", fin=False) + frame(b"{}"), PROTOCOL),
    "a ping in pieces": lambda _: Odd(frame(b"x", PING, fin=False), PROTOCOL),
    "a ping that is too long": lambda c: Odd(frame(c.randbytes(126), PING), PROTOCOL),
    "a close that is none": _close_with,
    "an orderly close": lambda _: Odd(frame(b"\x03\xe8", CLOSE), {1000}),
    "one byte too many": lambda _: Odd(frame(b" " * (LIMIT + 1)), TOO_BIG),
    "a terabyte, announced": lambda _: Odd(frame(b"{}", announced=1 << 40), TOO_BIG),
    "a length below zero": lambda _: Odd(
        b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0{}", PROTOCOL | TOO_BIG
    ),
    "pieces that are too much together": lambda _: Odd(
        frame(b" " * LIMIT, fin=False) + frame(b" ", 0), TOO_BIG
    ),
    "endless pieces": lambda _: Odd(
        frame(b"", fin=False) + frame(b"", 0, fin=False) * 1100, POLICY
    ),
    "half a head": lambda c: Odd(frame(b"{}" * 100)[: c.randint(1, 7)], CUT),
    "half a message": lambda c: Odd(frame(b"{}" * c.randint(1, 90_000))[:-1], CUT),
    "a message without its last piece": lambda _: Odd(frame(b"{", fin=False), CUT),
    "more announced than comes": lambda c: Odd(frame(b"{}", announced=c.randint(3, LIMIT)), CUT),
}


def altered_frames(chance: random.Random) -> bytes:
    """Sound frames of which bytes are overwritten, put in or left out: anything may come of it."""
    step = json.dumps({"session": "s", "observations": [[1, 2]], "id": 1}).encode()
    data = bytearray(frame(step) + in_pieces(step, chance) + frame(b"x", PING) + frame(step))
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(data))
        data[place : place + chance.choice((0, 1, 1, 9))] = chance.randbytes(
            chance.choice((0, 1, 1, 9))
        )
    return bytes(data)


def frames_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Opcode and payload of every whole frame that a server sent."""
    at = 0
    while len(data) - at >= 2:
        size, start = data[at + 1] & 0x7F, at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, start = int.from_bytes(data[start : start + width], "big"), start + width
        if len(data) < start + size:
            return
        yield data[at] & 0x0F, data[start : start + size]
        at = start + size
