"""WebSockets whose bytes are framed wrongly, against the real service.

Whatever comes, it is answered or closed in time, never by a 5xx; the next good request is served;
and after hundreds of them the process is no larger and holds no more descriptors.
"""

import json
import random
import socket
from contextlib import suppress

import pytest

from service.api.websocket.close_codes import CloseCode
from tests.e2e.framing import DEADLINE_S, STEP, told_until_end, watched_service
from tests.e2e.odd_frames import CLOSE, CUT, KINDS, OPEN, TEXT, altered_frames, frame, frames_of

NUM_ROUNDS = 12
"""Of each kind; ten times that many for what is altered at random."""
CODES = {1000} | {int(code) for code in CloseCode} - {int(CloseCode.INTERNAL)}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with watched_service(tmp_path_factory.mktemp("framing")) as service:
        yield service


def upgrade(service, path):
    """A socket after its handshake, and what came behind that."""
    connection = socket.create_connection(("127.0.0.1", service.server.port), timeout=DEADLINE_S)
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
    )
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(connection)
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b" 101 " in head, head
    return connection, rest


def received(connection):
    part = connection.recv(1 << 16)
    assert part, "the server closed the connection"
    return part


def send(connection, data):
    """All of it, or as much as the server reads before it closes."""
    with suppress(ConnectionError):
        connection.sendall(data)


def texts_and_codes(data):
    """Every message, as JSON, and every close code that came."""
    texts, codes = [], []
    for opcode, payload in frames_of(data):
        if opcode == TEXT:
            texts.append(json.loads(payload))
        elif opcode == CLOSE:
            codes.append(int.from_bytes(payload[:2], "big"))
    for each in texts:
        assert each.get("status", 200) < 500, each
    assert set(codes) <= CODES, codes
    return texts, codes


def sentinel(session, number):
    return frame(json.dumps(STEP | {"session": session, "id": number}).encode())


PATHS = {"/v1/stream": {"session": "s"}, "/v1/sessions/s/stream": {}}


def try_odd(service, path, odd, chance):
    named = PATHS[path]
    good = [
        frame(json.dumps(STEP | named | {"id": n}).encode()) for n in range(chance.choice((0, 3)))
    ]
    last = frame(json.dumps(STEP | named | {"id": "last"}).encode())
    connection, data = upgrade(service, path)
    with connection:
        send(connection, b"".join(good) + odd.data + (last if odd.outcome == OPEN else b""))
        if odd.outcome == OPEN:
            while b'"id":"last"' not in data:
                data += received(connection)
            connection.sendall(frame(b"\x03\xe8", CLOSE))
        elif odd.outcome == CUT:
            connection.shutdown(socket.SHUT_WR)
        else:  # as every client does; the server waits for it
            while not any(opcode == CLOSE for opcode, _ in frames_of(data)):
                data += received(connection)
            send(connection, frame(b"\x03\xe8", CLOSE))
        data = told_until_end(connection, data)
    texts, codes = texts_and_codes(data)
    hello = 0 if named else 1
    if odd.outcome == OPEN:
        assert len(texts) == hello + len(good) + odd.answers + 1, texts
        assert codes == [1000]
    elif odd.outcome != CUT:
        assert codes, "closed without saying why"
        assert codes[0] in odd.outcome


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_answers_or_closes_for_a_reason(service, kind, path):
    for seed in range(NUM_ROUNDS):
        chance = random.Random(f"{kind} {seed}")
        try:
            try_odd(service, path, KINDS[kind](chance), chance)
        except TimeoutError:
            raise AssertionError(f"{kind} {seed}: neither answered nor closed") from None
        service.serves()


def try_altered_frames(service, seed):
    chance = random.Random(seed)
    connection, data = upgrade(service, chance.choice(list(PATHS)))
    with connection:
        send(connection, altered_frames(chance))
        connection.shutdown(socket.SHUT_WR)
        texts_and_codes(told_until_end(connection, data))
    service.serves()


def test_altered_frames_end_their_stream_at_most(service):
    for seed in range(10 * NUM_ROUNDS):
        try_altered_frames(service, seed)


HANDSHAKE = (
    "GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Version: 13", "Version: 12"),
        ("Key: MDEyMzQ1Njc4OWFiY2RlZg==", "Key: short"),
        ("Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n", ""),
        ("GET", "POST"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("Host: x", "Host: x\r\nContent-Length: 5"),
        ("Host: x", "Host: x\r\nSec-WebSocket-Protocol: \xff, ,,"),
        ("Host: x", "Host: x\r\nOrigin: http://[::1"),
        ("Host: x", "Host: x\r\nSec-WebSocket-Extensions: permessage-deflate; a=\"\\"),
        ("/v1/stream", "/v1/sessions/%00/stream"),
        ("/v1/stream", "/v1/sessions/" + "s" * 200 + "/stream"),
    ],
)  # fmt: skip
def test_an_odd_handshake_is_refused_or_closed(service, before, after):
    with socket.create_connection(("127.0.0.1", service.server.port), timeout=DEADLINE_S) as wire:
        wire.sendall(HANDSHAKE.replace(before, after).encode("latin-1") + b"\r\n")
        wire.shutdown(socket.SHUT_WR)
        data = told_until_end(wire)
    assert data[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 1", b""), data
    service.serves()


def test_odd_frames_leave_no_memory_and_no_descriptors_behind(service):
    def rounds(first, last):
        for seed in range(first, last):
            chance = random.Random(seed)
            for kind in chance.sample(list(KINDS), 5):
                try_odd(service, chance.choice(list(PATHS)), KINDS[kind](chance), chance)
            try_altered_frames(service, seed)

    service.takes_no_more_after(rounds, 1000, 1120)
