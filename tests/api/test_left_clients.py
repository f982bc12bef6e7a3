"""A client that sends its whole request and leaves is heard, under `/v2` as under `/v1`."""

import asyncio
import json
import socket
import struct

import pytest

from service.stores.record.record import Key
from tests.api.support import listening, until

NUM_REQUESTS = 10
ROWS = {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
OF_V1 = ("/v1/sessions/s/steps", {"observations": [[1, 2]]}, "s")
OF_V2 = (
    "/v2/models/phase/infer", {"inputs": [ROWS], "parameters": {"sequence_id": 5}}, "v2:phase:i5"
)  # fmt: skip
WAYS = {
    "half-closes": lambda client: client.shutdown(socket.SHUT_WR),
    "closes": lambda client: client.close(),
    "resets": lambda client: (
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),
        client.close(),
    ),
}


@pytest.fixture
async def client():
    async with listening() as client:
        opening = {"model": "phase", "session": "s"}
        (await client.post("/v1/sessions", json=opening)).raise_for_status()
        start = {"sequence_id": 5, "sequence_start": True}
        body = {"inputs": [ROWS], "parameters": start}
        (await client.post("/v2/models/phase/infer", json=body)).raise_for_status()
        yield client


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("of", [OF_V1, OF_V2], ids=["v1", "v2"])
async def test_what_was_sent_whole_is_applied_though_the_client_left(client, of, way):
    path, body, session = of
    store = client.app.context.engine.store
    before = (await store.load(Key("default", session))).step
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    sent = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
    clients = []
    try:
        for number in range(1, NUM_REQUESTS + 1):
            one = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", client.port))
            clients.append(one)
            one.sendall(sent)
            WAYS[way](one)
            async with asyncio.timeout(30):
                await until(lambda: applied(store, session) >= before + number)  # noqa: B023
    finally:
        for each in clients:
            each.close()


def applied(store, session):
    """The step of a session, as a store in memory has it now."""
    loading = store.load(Key("default", session))
    try:
        loading.send(None)
    except StopIteration as found:
        return found.value.step
    raise AssertionError("a store in memory waits for nothing")


async def test_a_body_that_did_not_come_whole_is_not_taken_for_one(client):
    path, body, session = OF_V2
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data) + 1}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port)) as one:
        one.sendall(head.encode() + data)
    assert (await client.get("/v2/health/live")).status_code == 200
    assert applied(client.app.context.engine.store, session) == 1
