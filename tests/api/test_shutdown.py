"""A server that stops: accepted work finishes within the grace, or is answered by an error."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from service.api.websocket.close_codes import CloseCode
from tests.api.support import listening, until
from tests.api.test_generate import ASKED, EVENTS

GENERATE = "/v1/sessions/v/generate"


class HeldCommits:
    """Commits that wait until a test lets them go on; `reached` when one does."""

    def __init__(self, client):
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        store = client.app.context.engine.store
        self._commit = store.commit
        store.commit = self._hold

    async def _hold(self, writes):
        self.reached.set()
        await self.released.wait()
        return await self._commit(writes)


async def opened(client, session, model="verse", **more):
    body = {"model": model, "session": session} | more
    (await client.post("/v1/sessions", json=body)).raise_for_status()


async def told_to_stop(client):
    client.server.should_exit = True
    await client.app.context.stopping.wait()
    await until(lambda: not client.server.servers[0].is_serving())


async def events_of(response):
    """Names and data of the events of a stream, until it ends."""
    name = None
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def test_a_text_that_is_being_written_is_written_to_its_end():
    async with listening() as client:
        await opened(client, "whole")
        whole = (await client.post("/v1/sessions/whole/generate", json=ASKED)).json()
        await opened(client, "v")
        commits = HeldCommits(client)
        asked = client.stream("POST", GENERATE, json=ASKED | {"step": 0}, headers=EVENTS)
        async with asyncio.timeout(60), asked as response:
            events = events_of(response)
            texts = [(await anext(events))[1]["text"]]
            await told_to_stop(client)
            commits.released.set()
            told = [each async for each in events]
        texts += [data["text"] for name, data in told if name == "text"]
        assert told[-1][0] == "done"
        assert "".join(texts) == told[-1][1]["text"] == whole["text"]


async def test_a_text_that_the_grace_is_too_short_for_ends_with_an_error():
    async with listening(shutdown_grace_s=0.5) as client:
        await opened(client, "v")
        HeldCommits(client)
        asked = client.stream("POST", GENERATE, json=ASKED | {"step": 0}, headers=EVENTS)
        async with asyncio.timeout(60), asked as response:
            events = events_of(response)
            assert (await anext(events))[0] == "text"
            await told_to_stop(client)
            told = [each async for each in events]
        name, problem = told[-1]
        assert (name, problem["status"], problem["type"]) == ("error", 503, "urn:carry:draining")


async def test_prompts_without_a_session_end_with_an_error_as_well(monkeypatch):
    async with listening(shutdown_grace_s=0) as client:
        engine = client.app.context.engine
        worker = engine.workers.of(engine.registry.get("verse"))
        # Full stops are never chosen, so it would write on for a long time.
        monkeypatch.setattr(worker.model.codec, "end_token", None)
        prompts = {"instances": [{"prompt": "ab", "max_tokens": 2048}] * 16}
        asked = client.stream("POST", "/v1/models/verse/predict", json=prompts, headers=EVENTS)
        async with asyncio.timeout(60), asked as response:
            events = events_of(response)
            await anext(events)
            await told_to_stop(client)
            told = [each async for each in events]
        assert (told[-1][0], told[-1][1]["type"]) == ("error", "urn:carry:draining")


async def test_an_answer_that_is_no_stream_is_an_error_instead_of_a_cut():
    async with listening(shutdown_grace_s=0.2) as client:
        await opened(client, "v")
        commits = HeldCommits(client)
        asked = asyncio.create_task(client.post(GENERATE, json=ASKED | {"step": 0}))
        await commits.reached.wait()
        await told_to_stop(client)
        answer = await asyncio.wait_for(asked, 60)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:carry:draining")
        assert answer.headers["retry-after"] == "1"


async def test_a_message_of_a_socket_is_answered_by_an_error_and_then_closed():
    async with listening(shutdown_grace_s=0.2) as client:
        await opened(client, "s", "load", start="2016-08-22", replay=8)
        commits = HeldCommits(client)
        uri = f"ws://127.0.0.1:{client.port}/v1/sessions/s/stream"
        async with asyncio.timeout(60), connect(uri, proxy=None) as socket:
            await socket.recv()
            for step in range(20):
                await socket.send(json.dumps({"step": step, "observations": [[1, 2]]}))
            await commits.reached.wait()
            client.server.should_exit = True
            codes = [json.loads(await socket.recv())["type"] for _ in range(20)]
            with pytest.raises(ConnectionClosed) as caught:
                await socket.recv()
        assert codes == ["urn:carry:draining"] * 20
        assert caught.value.rcvd.code == CloseCode.RESTART


async def test_events_without_an_end_are_told_to_the_last_and_end_at_once():
    async with listening() as client:
        await opened(client, "s", "load", start="2016-08-22", replay=8)
        async with asyncio.timeout(60), client.stream("GET", "/v1/sessions/s/events") as response:
            events = events_of(response)
            assert (await anext(events))[0] == "open"
            for step in range(5):
                body = {"step": step, "observations": [[1, 2]]}
                (await client.post("/v1/sessions/s/steps", json=body)).raise_for_status()
            client.server.should_exit = True
            told = [(name, data["step"]) async for name, data in events]
        assert told == [("step", count) for count in range(1, 6)]
