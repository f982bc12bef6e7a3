"""How streams end: behind the answers to every message that came before the end."""

import asyncio
import json
from contextlib import asynccontextmanager
from struct import pack

import pytest
from websockets.frames import Close, Frame, Opcode

from service.api.websocket.close_codes import CloseCode
from tests.api.support import listening, until
from tests.api.test_protocol import _Gate as Gate

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22", "replay": 8}
ROW = [[1, 2]]


@pytest.fixture
async def client():
    async with listening() as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        yield client


class Socket:
    """A WebSocket whose bytes a test chooses."""

    def __init__(self, reader, writer):
        self._reader = reader
        self.writer = writer

    def send(self, *frames):
        """In one write."""
        self.writer.write(b"".join(frames))

    def end(self):
        """As `shutdown(SHUT_WR)`."""
        self.writer.write_eof()

    async def told(self):
        """The next frame: its opcode and its data."""
        head, size = await self._reader.readexactly(2)
        if size >= 126:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
        return Opcode(head & 0x0F), await self._reader.readexactly(size)

    async def answers_and_close(self):
        """All answers until the close frame, and its code and reason; then the connection ends."""
        answers = []
        async with asyncio.timeout(60):
            opcode, data = await self.told()
            while opcode is not Opcode.CLOSE:
                answers.append(json.loads(data))
                opcode, data = await self.told()
            assert await self._reader.read() == b""
        return answers, (int.from_bytes(data[:2]) if data else None, data[2:].decode())


@asynccontextmanager
async def socket_of(client, path="/v1/sessions/s/stream"):
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    upgrade = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    writer.write(upgrade.encode())
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    socket = Socket(reader, writer)
    if path != "/v1/stream":
        await socket.told()
    try:
        yield socket
    finally:
        writer.transport.abort()


def frame(opcode, data, *, fin=True):
    return Frame(opcode, data, fin=fin).serialize(mask=True)


def step_of(count, **more):
    return frame(Opcode.TEXT, json.dumps({"step": count, "observations": ROW} | more).encode())


def close_of(code=1000, reason=""):
    return frame(Opcode.CLOSE, Close(code, reason).serialize())


async def step_in_store(client, session="s"):
    return (await client.get(f"/v1/sessions/{session}")).json()["step"]


@pytest.mark.parametrize("num_steps", [1, 7, 300])
@pytest.mark.parametrize("how", ["close frame", "end of the connection"])
async def test_every_message_before_the_end_is_answered_before_the_close(client, num_steps, how):
    async with socket_of(client) as socket:
        frames = [step_of(count) for count in range(num_steps)]
        if how == "close frame":
            socket.send(*frames, close_of())
        else:
            socket.send(*frames)
            socket.end()
        answers, closed = await socket.answers_and_close()
    assert [each["step"] for each in answers] == list(range(1, num_steps + 1))
    assert closed[0] == CloseCode.NORMAL
    assert await step_in_store(client) == num_steps


async def test_a_close_in_a_segment_of_its_own_finds_the_steps_under_way(client, monkeypatch):
    gate = Gate(client, monkeypatch)
    async with socket_of(client) as socket:
        socket.send(*(step_of(count) for count in range(20)))
        await gate.reached.wait()
        socket.send(close_of())
        socket.end()
        await until(lambda: next(iter(client.app.context.open_streams))._is_ending)
        gate.opened.set()
        answers, closed = await socket.answers_and_close()
    assert [each["step"] for each in answers] == list(range(1, 21))
    assert closed == (1000, "")


@pytest.mark.parametrize(
    ("end", "closed"),
    [
        (close_of(1001, "going away"), (1001, "going away")),
        (close_of(4321), (4321, "")),
        (frame(Opcode.CLOSE, b""), (None, "")),
    ],
    ids=["1001", "4321", "no code"],
)
async def test_a_close_is_answered_by_its_own_code(client, end, closed):
    async with socket_of(client) as socket:
        socket.send(step_of(0), end, step_of(1))  # what is behind a close frame is no message
        answers, said = await socket.answers_and_close()
    assert [each["step"] for each in answers] == [1]
    assert said == closed
    assert await step_in_store(client) == 1


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (frame(Opcode.CLOSE, b"\x03"), CloseCode.PROTOCOL),
        (frame(Opcode.CLOSE, pack("!H", 999)), CloseCode.PROTOCOL),
        (frame(Opcode.CLOSE, pack("!H", 1000) + b"\xff"), CloseCode.NOT_UTF8),
        (frame(Opcode.BINARY, b"{}"), CloseCode.UNSUPPORTED),
        (frame(Opcode.TEXT, b'"\xff"'), CloseCode.NOT_UTF8),
        (frame(Opcode.TEXT, b"x" * (256 * 1024 + 1)), CloseCode.TOO_BIG),
        (Frame(Opcode.TEXT, b"{}").serialize(mask=False), CloseCode.PROTOCOL),
        (b"\xc1" + step_of(3)[1:], CloseCode.PROTOCOL),  # compressed, which was not agreed
    ],
    ids=["half a code", "code", "reason", "binary", "no UTF-8", "big", "no mask", "compressed"],
)
async def test_a_frame_that_is_refused_is_answered_behind_the_steps_before_it(client, end, code):
    async with socket_of(client) as socket:
        socket.send(*(step_of(count) for count in range(3)), end)
        socket.send(close_of())
        answers, closed = await socket.answers_and_close()
    assert [each["step"] for each in answers] == [1, 2, 3]
    assert closed[0] == code


async def test_sessions_that_share_a_socket_are_all_answered_before_the_close(client):
    names = [f"s{number}" for number in range(9)]
    for name in names:
        opened = await client.post("/v1/sessions", json=OPEN | {"session": name, "replay": 2})
        opened.raise_for_status()
    async with socket_of(client, "/v1/stream") as socket:
        frames = [step_of(count, session=name) for count in range(20) for name in names]
        socket.send(*frames, step_of(0, session="nobody"), close_of())
        answers, closed = await socket.answers_and_close()
    for name in names:
        steps = [each["step"] for each in answers if each["session"] == name]
        assert steps == list(range(1, 21))
        assert await step_in_store(client, name) == 20
    assert [each["status"] for each in answers if each["session"] == "nobody"] == [404]
    assert closed == (1000, "")


async def test_sessions_that_are_asked_of_the_store_first_are_answered_before_the_close(tmp_path):
    store = f"sqlite:///{tmp_path}/carry.db"
    async with listening(store=store) as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
    async with listening(store=store) as client, socket_of(client, "/v1/stream") as socket:
        socket.send(*(step_of(count, session="s") for count in range(5)), close_of())
        answers, _ = await socket.answers_and_close()
        assert [each["step"] for each in answers] == [1, 2, 3, 4, 5]


async def test_a_message_in_fragments_counts_only_when_it_is_whole(client):
    whole = json.dumps({"step": 0, "observations": ROW}).encode()
    async with socket_of(client) as socket:
        socket.send(
            frame(Opcode.TEXT, whole[:5], fin=False),
            frame(Opcode.CONT, whole[5:]),
            frame(Opcode.TEXT, b'{"step": 1', fin=False),
            close_of(),
        )
        answers, closed = await socket.answers_and_close()
    assert [each["step"] for each in answers] == [1]
    assert closed == (CloseCode.PROTOCOL, "incomplete fragmented message")
    assert await step_in_store(client) == 1


async def test_what_came_before_a_close_is_applied_for_a_client_that_does_not_wait(client):
    async with socket_of(client) as socket:
        socket.send(*(step_of(count) for count in range(300)), close_of())
        await socket.writer.drain()
        socket.writer.close()  # what is sent to it from now on resets the connection
    await until(lambda: not client.app.context.open_streams)
    while await step_in_store(client) < 300:  # noqa: ASYNC110 -- nobody announces it
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("first", ["the client", "the server"])
async def test_a_client_and_a_server_that_end_at_once_leave_no_step_out(client, monkeypatch, first):
    gate = Gate(client, monkeypatch)
    async with socket_of(client) as socket:
        socket.send(*(step_of(count) for count in range(20)))
        await gate.reached.wait()
        stream = next(iter(client.app.context.open_streams))
        if first == "the client":
            socket.send(close_of(4000))
            await until(lambda: stream._is_ending)
        client.server.should_exit = True
        await until(lambda: not client.server.servers[0].is_serving())
        if first == "the server":
            await until(lambda: stream.stream._on_finished)
            socket.send(close_of(4000))
            await until(lambda: stream._is_ending)
        gate.opened.set()
        answers, closed = await socket.answers_and_close()
    assert [each["step"] for each in answers] == list(range(1, 21))
    assert closed == (4000, "")


async def test_a_step_on_its_way_when_the_server_stops_is_answered(client):
    async with socket_of(client) as socket:
        socket.send(step_of(0), close_of())  # read by the server no earlier than this task waits
        next(iter(client.app.context.open_streams)).shutdown()
        answers, closed = await socket.answers_and_close()
    assert [each["step"] for each in answers] == [1]
    assert closed == (1000, "")


async def test_a_client_that_closes_behind_a_step_which_came_too_late_is_told(client, monkeypatch):
    gate = Gate(client, monkeypatch)
    async with socket_of(client) as socket:
        socket.send(step_of(0))
        await gate.reached.wait()
        stream = next(iter(client.app.context.open_streams))
        stream.shutdown()
        await until(lambda: stream.stream._on_finished)
        socket.send(step_of(1), close_of())
        await until(lambda: stream._is_ending)
        gate.opened.set()
        answers, closed = await socket.answers_and_close()
    assert [each["step"] for each in answers] == [1]
    assert closed[0] == CloseCode.RESTART
