"""Listening to a session by Server-Sent Events, on real sockets."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from service.api.events import sse
from service.api.sessions import events
from tests.api.support import listening, until

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22", "replay": 4}
URL = "/v1/sessions/s/events"


@pytest.fixture(autouse=True)
def _frequent_polls(monkeypatch):
    monkeypatch.setattr(events, "POLL_S", 0.02)


@pytest.fixture
async def client():
    async with listening() as client:
        (await client.post("/v1/sessions", json=OPEN)).raise_for_status()
        yield client


@asynccontextmanager
async def listener(client, last=None):
    """Yields a function that answers the next event: name, id, data."""
    last = str(last) if isinstance(last, int) else last
    headers = {} if last is None else {"Last-Event-ID": last}
    async with client.stream("GET", URL, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()

        async def upcoming():
            said = {}
            async for line in lines:
                if not line:
                    break
                name, _, value = line.partition(":")
                said[name] = value.strip()
            data = json.loads(said["data"]) if "data" in said else None
            return said.get("event", said.get("")), said.get("id"), data

        yield upcoming


async def step(client, count, **more):
    body = {"step": count, "observations": [[count, 1]]} | more
    return (await client.post("/v1/sessions/s/steps", json=body)).raise_for_status().json()


async def test_every_step_is_told_as_it_was_answered(client):
    async with listener(client) as upcoming:
        name, at, data = await upcoming()
        assert (name, at, data) == ("open", "0", {"session": "s", "step": 0, "replay": 4})
        answers = [await step(client, count) for count in range(10)]
        for count, answer in enumerate(answers):
            name, at, data = await upcoming()
            assert (name, at) == ("step", str(count + 1))
            assert data | {"expires_at": ""} == answer | {"expires_at": ""}


async def test_who_comes_back_gets_what_is_kept_and_is_told_of_the_rest(client):
    for count in range(6):
        await step(client, count)
    async with listener(client, last=4) as upcoming:
        told = [await upcoming() for _ in range(3)]
    assert [(name, at) for name, at, _ in told] == [("open", "4"), ("step", "5"), ("step", "6")]
    async with listener(client, last=1) as upcoming:
        told = [await upcoming() for _ in range(3)]
    assert told[1] == ("gap", "2", {"from_step": 1, "to_step": 2})
    assert told[2][:2] == ("step", "3")


@pytest.mark.parametrize(
    "last",
    [
        "", "null", "x", "-1", "1.5", "+2", "0x2", "2 2", "2,2", "1" + "0" * 25, str(2**63),
        "9" * 5000, b"\xff", "٣".encode(), b"\xb2",
    ],
)  # fmt: skip
async def test_who_comes_back_with_an_id_that_is_no_step_begins_behind_a_gap(client, last):
    for count in range(3):
        await step(client, count)
    async with listener(client, last=last) as upcoming:
        told = [await upcoming() for _ in range(2)]
        await step(client, 3)
        told.append(await upcoming())
    assert told[0] == ("open", "3", {"session": "s", "step": 3, "replay": 4})
    assert told[1] == ("gap", "3", {"from_step": 0, "to_step": 3})
    assert told[2][:2] == ("step", "4")


async def test_who_comes_back_to_a_session_that_went_back_is_told_so(client):
    await step(client, 0)
    async with listener(client, last=7) as upcoming:
        told = [await upcoming() for _ in range(2)]
    assert told[0][:2] == ("open", "7")
    assert told[1] == ("gap", "1", {"from_step": 7, "to_step": 1})


async def test_steps_of_another_replica_show_up(tmp_path):
    settings = {"store": f"sqlite:///{tmp_path}/carry.db"}
    async with listening(**settings) as here, listening(**settings) as there:
        (await here.post("/v1/sessions", json=OPEN)).raise_for_status()
        async with listener(here) as upcoming:
            await upcoming()
            answer = await step(there, 0)
            name, at, data = await upcoming()
        assert (name, at, data["prediction"]) == ("step", "1", answer["prediction"])


async def test_a_look_that_a_commit_passes_by_tells_nothing_old(client, monkeypatch):
    store = client.app.context.engine.store
    load, looks, committed = store.load, asyncio.Event(), asyncio.Event()

    async def slow_load(key):
        record = await load(key)
        looks.set()
        await committed.wait()
        return record

    async with listener(client) as upcoming:
        await upcoming()
        await step(client, 0)
        assert (await upcoming())[:2] == ("step", "1")
        monkeypatch.setattr(store, "load", slow_load)
        await looks.wait()
        await step(client, 1)
        looks.clear()
        committed.set()
        await looks.wait()  # the look after the one that was passed by
        await step(client, 2)
        told = [(await upcoming())[:2] for _ in range(2)]
    assert told == [("step", "2"), ("step", "3")]


@pytest.mark.parametrize("how", ["deleted", "expired"])
async def test_the_end_of_a_session_ends_its_events(how):
    async with listening() as client:
        ttl_s = 3 if how == "expired" else 60
        await client.post("/v1/sessions", json=OPEN | {"ttl_s": ttl_s})
        async with listener(client) as upcoming:
            await upcoming()
            if how == "deleted":
                await client.delete("/v1/sessions/s")
            assert await upcoming() == ("end", None, {"reason": how})
            assert await upcoming() == (None, None, None)
        assert (await client.get(URL)).status_code in (404, 409)


async def test_a_quiet_stream_is_kept_alive_by_comments(client, monkeypatch):
    monkeypatch.setattr(sse, "_HEARTBEAT_S", 0.01)
    async with listener(client) as upcoming:
        await upcoming()
        assert (await upcoming())[0] == "ping"


async def test_a_listener_that_leaves_leaves_nothing_behind(client):
    context = client.app.context
    async with listener(client) as upcoming:
        await upcoming()
        await step(client, 0)
        await upcoming()
        assert context.engine._queues.watchers
    await until(lambda: not context.open_streams and not context.engine._queues.watchers)


async def test_listeners_are_bounded():
    async with listening(max_streams=1) as client:
        await client.post("/v1/sessions", json=OPEN)
        async with listener(client) as upcoming:
            await upcoming()
            refused = await client.get(URL)
            assert refused.status_code == 429
            assert refused.json()["type"] == "urn:carry:too-many-streams"
            assert refused.headers["retry-after"] == "5"


async def test_a_shutdown_ends_the_events(client):
    async with listener(client) as upcoming:
        await upcoming()
        client.server.should_exit = True
        assert await asyncio.wait_for(upcoming(), 10) == (None, None, None)
