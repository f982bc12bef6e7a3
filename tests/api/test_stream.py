"""Steps over a WebSocket, on real sockets."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from service.api.auth.keys import ANYBODY
from service.api.websocket import protocol as stream_protocol
from service.api.websocket.close_codes import CloseCode
from service.api.websocket.timing import StreamFollower
from service.errors import InvalidInputError
from tests.api.keys import headers, keys_file, line_of
from tests.api.support import listening, until
from tests.api.test_protocol import _Gate as Gate

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22", "replay": 8}
ROW = [[1, 2]]


@pytest.fixture
async def client():
    async with listening() as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        yield client


@asynccontextmanager
async def stream_of(client, path="/v1/sessions/s/stream", **options):
    uri = f"ws://127.0.0.1:{client.port}{path}"
    async with connect(uri, proxy=None, **options) as socket:
        yield socket


async def send(socket, **body):
    await socket.send(json.dumps(body))


async def told(socket):
    return json.loads(await socket.recv())


async def test_a_stream_begins_where_the_session_stands(client):
    async with stream_of(client) as socket:
        assert await told(socket) == {"session": "s", "step": 0, "replay": 8}
        await send(socket, step=0, observations=ROW * 3)
        assert (await told(socket))["step"] == 3
    async with stream_of(client) as socket:
        assert (await told(socket))["step"] == 3


async def test_a_step_is_answered_as_over_http(client):
    async with stream_of(client) as socket:
        await socket.recv()
        await send(socket, step=0, observations=ROW, id="a")
        answer = await told(socket)
    again = await client.post("/v1/sessions/s/steps", json={"step": 0, "observations": ROW})
    assert again.headers["idempotent-replayed"] == "true"
    assert answer == again.json() | {"id": "a"}


async def test_pipelined_steps_are_answered_in_their_order(client):
    async with stream_of(client) as socket:
        await socket.recv()
        for step in range(100):
            await send(socket, step=step, observations=[[step, 1]], id=step)
        answers = [await told(socket) for _ in range(100)]
    assert [(each["id"], each["step"]) for each in answers] == [(n, n + 1) for n in range(100)]


async def test_a_step_that_was_applied_is_answered_again_by_the_ring(client):
    async with stream_of(client) as socket:
        await socket.recv()
        for step in range(10):
            await send(socket, step=step, observations=[[step, 1]])
        first = [await told(socket) for _ in range(10)]
    async with stream_of(client) as socket:
        assert (await told(socket))["step"] == 10
        for step in range(1, 11):
            await send(socket, step=step, observations=[[step, 1]])
        again = [await told(socket) for _ in range(10)]
    assert again[0]["type"] == "urn:carry:replay-expired"
    assert (again[0]["step"], again[0]["expected_step"]) == (1, 10)
    for before, after in zip(first[2:], again[1:], strict=False):
        assert after.pop("replayed") is True
        del after["expires_at"], before["expires_at"]
        assert after == before
    assert again[9]["step"] == 11
    assert "replayed" not in again[9]


@pytest.mark.parametrize(
    ("message", "status", "echo"),
    [
        ("{", 400, {}),
        ("[1]", 422, {}),
        ('{"id": 7, "step": 3, "observations": [[1, 2]]}', 409, {"id": 7, "step": 3}),
        ('{"id": "x", "step": 0, "observations": [[1]]}', 422, {"id": "x", "step": 0}),
        ('{"id": "x", "step": 0, "observations": []}', 422, {"id": "x", "step": 0}),
        ('{"id": 1, "step": 0, "rows": 1}', 422, {"id": 1, "step": 0}),
        ('{"id": 1.5, "text": "no"}', 422, {}),
        ('{"id": 2, "text": "no"}', 422, {"id": 2}),
        ('{"id": 2, "observations": [[NaN, 1]]}', 422, {}),
        ('{"text": "\\ud800"}', 422, {}),
        ('{"id": 1, "step": 1%s, "observations": [[1, 2]]}' % ("0" * 30), 422, {"id": 1}),
        ('{"id": 1%s, "step": 0, "observations": [[1, 2]]}' % ("0" * 30), 422, {"step": 0}),
        ('{"id": -1%s, "step": 0, "observations": [[1, 2]]}' % ("0" * 30), 422, {"step": 0}),
    ],
)
async def test_a_refused_message_gets_a_problem_and_the_stream_goes_on(
    client, message, status, echo
):
    async with stream_of(client) as socket:
        await socket.recv()
        await socket.send(message)
        await send(socket, step=0, observations=ROW, id="next")
        problem, answer = await told(socket), await told(socket)
    assert problem["status"] == status
    assert problem["type"].startswith("urn:carry:")
    assert {name: problem[name] for name in ("id", "step") if name in problem} == echo
    assert (answer["id"], answer["step"]) == ("next", 1)


async def test_a_problem_that_cannot_name_its_message_is_told_without_the_name(client):
    follower = StreamFollower(client.app.context, ANYBODY, "r", {})
    problem = json.loads(follower.problem(InvalidInputError("no"), {"id": 10**30}))
    assert problem["detail"] == "no"
    assert "id" not in problem


async def test_a_refusal_waits_for_the_answers_before_it(client, monkeypatch):
    gate = Gate(client, monkeypatch)
    async with stream_of(client) as socket:
        await socket.recv()
        await send(socket, step=0, observations=ROW, id=0)
        await gate.reached.wait()
        await socket.send("{")
        gate.opened.set()
        assert (await told(socket))["id"] == 0
        assert (await told(socket))["status"] == 400


async def test_many_sessions_share_a_stream_without_waiting_for_each_other(client, monkeypatch):
    await client.post("/v1/sessions", json=OPEN | {"session": "t"})
    await client.post("/v1/sessions/t/steps", json={"observations": ROW})
    async with stream_of(client, "/v1/stream") as socket:
        for step in range(4):
            await send(socket, session="s", step=step, observations=ROW)
            await send(socket, session="t", step=step + 1, observations=ROW)
        await send(socket, session="nobody", observations=ROW)
        await send(socket, observations=ROW)
        answers = [await told(socket) for _ in range(10)]
    for name, first in (("s", 1), ("t", 2)):
        steps = [each["step"] for each in answers if each.get("session") == name]
        assert steps == list(range(first, first + 4))
    problems = {each["status"]: each for each in answers if "status" in each}
    assert problems[404]["session"] == "nobody"
    assert "session" in problems[422]["detail"]


async def test_a_text_session_streams_until_its_final_chunk(client):
    await client.post("/v1/sessions", json={"model": "mood", "session": "w"})
    async with stream_of(client, "/v1/sessions/w/stream") as socket:
        await socket.recv()
        await send(socket, step=0, text="a wonder")
        await send(socket, step=1, text="ful film", final=True)
        await send(socket, step=2, text="more")
        answers = [await told(socket) for _ in range(3)]
    assert answers[1]["prediction"]["label"] in ("negative", "positive")
    assert answers[2]["type"] == "urn:carry:session-closed"


async def refused(client, path="/v1/sessions/s/stream", **options):
    with pytest.raises(InvalidStatus) as caught:
        async with stream_of(client, path, **options):
            pass
    response = caught.value.response
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, json.loads(response.body)["type"]


async def test_a_stream_of_no_session_is_refused(client):
    assert await refused(client, "/v1/sessions/x/stream") == (404, "urn:carry:session-not-found")


async def test_a_page_of_another_host_gets_no_stream(client):
    assert await refused(client, origin="http://evil.example") == (
        403,
        "urn:carry:origin-refused",
    )
    own = f"http://127.0.0.1:{client.port}"
    async with stream_of(client, origin=own, subprotocols=["carry.v1"]) as socket:
        assert socket.subprotocol == "carry.v1"


async def test_a_stream_under_one_idempotency_key_is_refused(client):
    key = {"Idempotency-Key": "k"}
    told = await refused(client, additional_headers=key)
    assert told == (422, "urn:carry:invalid-input")


async def test_streams_are_bounded():
    async with listening(max_streams=1) as client:
        async with stream_of(client, "/v1/stream"):
            told = await refused(client, "/v1/stream")
            assert told == (429, "urn:carry:too-many-streams")
        await until(lambda: not client.app.context.open_streams)
        async with stream_of(client, "/v1/stream"):
            pass


async def take_all(socket, answers):
    while True:
        answers.append(await told(socket))


async def closed_with(socket, answers=None):
    with pytest.raises(ConnectionClosed) as caught:
        await take_all(socket, [] if answers is None else answers)
    return caught.value.rcvd.code


async def test_what_is_no_text_closes_the_stream_with_its_code(client):
    async with stream_of(client) as socket:
        await socket.send(b"{}")
        assert await closed_with(socket) == CloseCode.UNSUPPORTED
    async with stream_of(client) as socket:
        await socket.send("x" * (256 * 1024 + 1))
        assert await closed_with(socket) == CloseCode.TOO_BIG
    async with stream_of(client) as socket:
        socket.protocol.send_text(b'"\xff"')
        socket.send_data()
        assert await closed_with(socket) == CloseCode.NOT_UTF8


async def test_a_message_in_endless_fragments_closes_the_stream(client):
    async with stream_of(client) as socket:
        socket.protocol.send_text(b"", fin=False)
        for _ in range(stream_protocol._MAX_FRAGMENTS):
            socket.protocol.send_frame(Frame(Opcode.CONT, b"", fin=False))
        socket.send_data()
        assert await closed_with(socket) == CloseCode.POLICY


async def test_a_text_in_the_midst_of_a_fragmented_one_closes_the_stream(client):
    async with stream_of(client) as socket:
        socket.protocol.send_text(b"{", fin=False)
        socket.protocol.send_frame(Frame(Opcode.TEXT, b"{}"))
        socket.send_data()
        assert await closed_with(socket) == 1002


async def test_a_message_in_fragments_is_one_message(client):
    async with stream_of(client) as socket:
        await socket.recv()
        await socket.send(iter(['{"step": 0, "observ', 'ations": [[', "1, 2]]}"]))
        assert (await told(socket))["step"] == 1


async def test_a_stream_without_messages_is_closed_after_a_while(client, monkeypatch):
    monkeypatch.setattr(stream_protocol, "IDLE_S", 0.01)
    async with stream_of(client, "/v1/stream") as socket:
        assert await closed_with(socket) == CloseCode.IDLE


async def test_a_shutdown_answers_every_message_that_it_read_and_says_so(client, monkeypatch):
    gate = Gate(client, monkeypatch)
    async with stream_of(client) as socket:
        await socket.recv()
        for step in range(20):
            await send(socket, step=step, observations=ROW)
        await gate.reached.wait()
        client.server.should_exit = True
        await until(lambda: not client.server.servers[0].is_serving())
        gate.opened.set()
        answers = []
        assert await closed_with(socket, answers) == CloseCode.RESTART
    assert [each["step"] for each in answers] == list(range(1, 21))


async def test_steps_that_are_queued_are_dropped_with_a_socket_that_breaks(monkeypatch):
    # While a step runs the socket is not read: that it broke is seen when the step is answered.
    async with listening(request_timeout_s=1) as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        await client.post("/v1/sessions/s/steps", json={"step": 0, "observations": ROW})
        gate = Gate(client, monkeypatch)
        async with stream_of(client) as socket:
            await socket.recv()
            for step in range(1, 5):
                await send(socket, step=step, observations=ROW)
            await gate.reached.wait()
            socket.transport.abort()
        await until(lambda: not client.app.context.open_streams)
        gate.opened.set()
        assert (await client.get("/v1/sessions/s")).json()["step"] == 2


async def test_a_client_that_does_not_read_is_cut_off_and_holds_a_bounded_lot(client, monkeypatch):
    monkeypatch.setattr(stream_protocol, "_SLOW_READER_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1024)
    upgrade = (
        "GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    writer.write(upgrade.encode())
    await reader.readuntil(b"\r\n\r\n")
    body = json.dumps({"session": "s", "observations": ROW * 40, "emit": "all"}).encode()
    frame = Frame(Opcode.TEXT, body).serialize(mask=True)

    async def send_without_reading():
        for _ in range(100_000):
            writer.write(frame)
            await writer.drain()

    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await send_without_reading()
    assert not client.app.context.open_streams
    writer.close()


async def test_an_answer_beyond_what_may_lie_unread_reaches_a_client_that_reads(monkeypatch):
    monkeypatch.setattr(stream_protocol, "_MAX_UNSENT_BYTES", 64 << 10)
    async with listening() as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        async with stream_of(client, max_size=None, compression=None) as socket:
            await socket.recv()
            for step in range(2):
                body = {"step": step * 40_000, "observations": ROW * 40_000, "emit": "all"}
                await socket.send(json.dumps(body, separators=(",", ":")))
                assert len((await told(socket))["predictions"]) == 40_000


async def test_what_comes_while_too_much_lies_unread_ends_the_stream(client, monkeypatch):
    async with stream_of(client) as socket:
        await socket.recv()
        monkeypatch.setattr(stream_protocol, "_MAX_UNSENT_BYTES", -1)  # too much from now on
        await send(socket, observations=ROW)
        with pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_a_frame_before_the_stream_is_open_is_dropped(client):
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        + Frame(Opcode.TEXT, b"{").serialize(mask=True)
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(Frame(Opcode.TEXT, b"[]").serialize(mask=True))
    assert b'"status":422' in await reader.readuntil(b"}")
    writer.close()


async def test_other_websockets_are_not_served(client):
    assert await refused(client, "/v1/models") == (404, "urn:carry:not-found")
    answer = await client.get("/v1/stream")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")


async def test_a_stream_belongs_to_the_tenant_of_its_key(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    async with listening(api_keys_file=path) as client:
        opened = await client.post("/v1/sessions", json=OPEN, headers=headers(keys["ada"]))
        opened.raise_for_status()
        assert await refused(client) == (401, "urn:carry:unauthenticated")
        wrong = ["carry.v1", "carry.key.wrong"]
        assert await refused(client, subprotocols=wrong) == (401, "urn:carry:unauthenticated")
        bob = headers(keys["bob"])
        missing = await refused(client, additional_headers=bob)
        assert missing == (404, "urn:carry:session-not-found")
        async with stream_of(client, "/v1/stream", additional_headers=bob) as socket:
            await send(socket, session="s", observations=ROW)
            assert (await told(socket))["status"] == 404
        in_browser = ["carry.v1", f"carry.key.{keys['ada']}"]
        async with stream_of(client, subprotocols=in_browser) as socket:
            assert socket.subprotocol == "carry.v1"
            assert (await told(socket))["step"] == 0
            path.write_text(line_of(path, "ada", revoked=True))
            assert await closed_with(socket) == CloseCode.KEY_GONE
