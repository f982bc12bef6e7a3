"""A key that is revoked, has expired or was changed ends every stream that was opened with it."""

import asyncio
import json
import os
import threading
from datetime import UTC, datetime

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from service.api.auth import key_watch
from service.api.auth.key_watch import KeyWatch
from service.api.auth.keys import KeyRing
from service.api.events.sse import EventStream, event
from service.api.websocket.close_codes import CloseCode
from tests.api.keys import bearer, headers, keys_file, line_of
from tests.api.support import listening, serving, until

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}
PAST = datetime(2020, 1, 1, tzinfo=UTC)


def write(path, text):
    """As a careful editor does: at no time there is half a file."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def revoke(path):
    write(path, line_of(path, "ada", revoked=True) + "\n" + line_of(path, "bob"))


def take_out(path):
    write(path, line_of(path, "bob") + "\n")


def expire(path):
    write(path, line_of(path, "ada", expires=PAST) + "\n" + line_of(path, "bob"))


def change_tenant(path):
    write(path, path.read_text().replace('tenant = "ada"', 'tenant = "eve"'))


def change_role(path):
    line = line_of(path, "ada")
    write(path, path.read_text().replace(line, line.replace('"user"', '"admin"')))


CHANGES = {each.__name__: each for each in (revoke, take_out, expire, change_tenant, change_role)}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_what_was_opened_with_a_key_ends_when_the_key_is_not_what_it_was(tmp_path, change):
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    gone = []
    ring = KeyRing(path)
    watch = KeyWatch(ring)
    for name in ("ada", "bob", "ada"):
        authorization = bearer(keys[name])
        watch.watch(authorization, ring.find(authorization), lambda name=name: gone.append(name))
    ended = watch.watch(bearer(keys["ada"]), ring.find(bearer(keys["ada"])), lambda: gone.append(0))
    watch.unwatch(ended)
    watch.check()
    assert gone == []
    change(path)
    ring.look()
    watch.check()
    watch.check()
    assert gone == ["ada", "ada"]


async def test_other_limits_end_no_stream(tmp_path):
    path, keys = keys_file(tmp_path, ada="user")
    ring, gone = KeyRing(path), []
    watch = KeyWatch(ring)
    watch.watch(bearer(keys["ada"]), ring.find(bearer(keys["ada"])), lambda: gone.append(1))
    write(path, path.read_text().replace(" }", ', limits = "1/second", max_sessions = 3 }'))
    ring.look()
    assert ring.find(bearer(keys["ada"])).limits
    watch.check()
    assert gone == []


async def test_a_key_that_expires_ends_its_streams_without_a_change_of_the_file(tmp_path):
    path, keys = keys_file(tmp_path, ada="user")
    write(path, line_of(path, "ada", expires=datetime(2100, 1, 1, tzinfo=UTC)))
    now = datetime(2099, 1, 1, tzinfo=UTC).timestamp()
    ring, gone = KeyRing(path, wall_clock=lambda: now), []
    watch = KeyWatch(ring)
    watch.watch(bearer(keys["ada"]), ring.find(bearer(keys["ada"])), lambda: gone.append(1))
    watch.check()
    assert gone == []
    now = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
    watch.check()
    assert gone == [1]


async def test_a_key_that_changed_while_its_stream_was_opened_ends_it_at_once(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    ring = KeyRing(path)
    caller, gone = ring.find(bearer(keys["ada"])), asyncio.Event()
    revoke(path)
    ring.look()
    KeyWatch(ring).watch(bearer(keys["ada"]), caller, gone.set)
    await asyncio.wait_for(gone.wait(), 20)


async def test_a_look_that_hangs_holds_nothing_up_and_is_told(tmp_path, monkeypatch):
    path, keys = keys_file(tmp_path, ada="user")
    ring, hangs, go_on = KeyRing(path), threading.Event(), threading.Event()

    def look():
        hangs.set()
        go_on.wait()

    monkeypatch.setattr(ring, "look", look)
    monkeypatch.setattr(key_watch, "_EVERY_S", 0.01)
    monkeypatch.setattr(key_watch, "_MOST_SILENCE_S", 0.1)
    looks = []
    watch = KeyWatch(ring, looks.append)
    watch.start()
    try:
        await until(lambda: hangs.is_set() and watch.fault)
        assert "could not be read for" in watch.fault
        await until(lambda: False in looks)
        assert ring.find(bearer(keys["ada"]))
    finally:
        go_on.set()
        watch.close()


async def test_a_websocket_of_a_revoked_key_is_closed_and_commits_nothing_more(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    async with listening(api_keys_file=path) as client:
        ada = headers(keys["ada"])
        (await client.post("/v1/sessions", json=OPEN, headers=ada)).raise_for_status()
        url = f"ws://127.0.0.1:{client.port}/v1/sessions/s/stream"
        async with connect(url, additional_headers=ada) as socket:
            await socket.recv()
            engine = client.app.context.engine
            begun = engine.submit

            def submit(*arguments):
                """The key is taken back as the first step is begun, others wait behind it."""
                client.app.context.keys._known.clear()
                client.app.context.key_watch.check()
                return begun(*arguments)

            engine.submit = submit
            for step in range(20):
                await socket.send(json.dumps(STEP | {"step": step}))
            with pytest.raises(ConnectionClosed) as closed:
                await read_all(socket)
            assert closed.value.rcvd.code == CloseCode.KEY_GONE
        await until(lambda: not client.app.context.open_streams)
        del engine.submit
        assert not client.app.context.key_watch._watched
        record = await engine.read(client.app.context.key(Ada, "s"))
        assert record.step <= 1


async def read_all(socket):
    while True:
        await socket.recv()


class Ada:
    tenant = "ada"


async def next_event(lines):
    """The name and data of the next event."""
    name = ""
    async for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        if line.startswith("data: "):
            return name, json.loads(line.removeprefix("data: "))
    return None


async def test_events_of_a_revoked_key_end_with_an_error_and_those_of_others_go_on(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    async with listening(api_keys_file=path) as client:
        streams, lines = [], {}
        for name in keys:
            said = headers(keys[name])
            (await client.post("/v1/sessions", json=OPEN, headers=said)).raise_for_status()
            stream = client.stream("GET", "/v1/sessions/s/events", headers=said)
            streams.append(stream)
            lines[name] = (await stream.__aenter__()).aiter_lines()
            assert (await next_event(lines[name]))[0] == "open"
        try:
            revoke(path)
            name, problem = await next_event(lines["ada"])
            assert (name, problem["type"]) == ("error", "urn:carry:unauthenticated")
            assert await next_event(lines["ada"]) is None
            await until(lambda: len(client.app.context.open_streams) == 1)
            bob = headers(keys["bob"])
            await client.post("/v1/sessions/s/steps", json=STEP, headers=bob)
            assert (await next_event(lines["bob"]))[0] == "step"
        finally:
            for stream in streams:
                await stream.__aexit__(None, None, None)
        await until(lambda: not client.app.context.key_watch._watched)


async def test_what_makes_the_events_ends_before_the_last_of_them_is_sent(tmp_path):
    """So that nothing which is still being written is committed while its client reads slowly."""
    path, keys = keys_file(tmp_path, ada="user")
    async with serving(api_keys_file=path) as client:
        context, told = client.app.context, []

        async def events():
            try:
                yield event({"text": "a"}, "text")
                await asyncio.Event().wait()
            finally:
                told.append("ended")

        async def send(message):
            body = message.get("body", b"")
            if b"event: text" in body:
                context.keys._known.clear()
            if b"event: error" in body:
                told.append("error")

        async def receive():
            await asyncio.Event().wait()

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"},
            "headers": [(b"authorization", bearer(keys["ada"]))],
            "caller": context.keys.find(bearer(keys["ada"])),
        }  # fmt: skip
        await asyncio.wait_for(EventStream(context, events())(scope, receive, send), 60)
        assert told == ["ended", "error"]


async def test_a_client_that_does_not_read_its_events_is_cut_off_with_its_key(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    async with listening(api_keys_file=path) as client:
        ada = headers(keys["ada"])
        (await client.post("/v1/sessions", json=OPEN, headers=ada)).raise_for_status()
        app, context = client.app.app, client.app.context
        blocked = asyncio.Event()

        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            if message["type"] == "http.response.body":
                blocked.set()
                await asyncio.Event().wait()

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "GET",
            "path": "/v1/sessions/s/events", "raw_path": b"/v1/sessions/s/events",
            "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
            "headers": [(b"authorization", bearer(keys["ada"]))], "client": None, "server": None,
        }  # fmt: skip
        task = asyncio.create_task(app(scope, receive, send))
        await asyncio.wait_for(blocked.wait(), 60)
        revoke(path)
        await asyncio.wait_for(task, 60)
        assert not context.open_streams
        assert not context.key_watch._watched
        assert not context.engine._queues.watchers


async def test_a_file_of_keys_that_is_gone_or_empty_is_told_by_readiness_and_metrics(tmp_path):
    path, keys = keys_file(tmp_path, ada="user")
    good = path.read_text()
    async with serving(api_keys_file=path) as client:

        async def ready():
            return (await client.get("/readyz")).status_code == 200

        async def valid():
            return "carry_keys_file_valid 1.0" in (await client.get("/metrics")).text

        async def become(expected):
            async with asyncio.timeout(60):
                while (await ready(), await valid()) != (expected, expected):  # noqa: ASYNC110 -- no event
                    await asyncio.sleep(0.02)

        await become(True)
        for fault, spoil in (
            ("is missing", path.unlink),
            ("holds no key", lambda: path.write_text("")),
            ("is not valid TOML", lambda: path.write_text("k = {")),
        ):
            spoil()
            await become(False)
            detail = (await client.get("/readyz")).json()["detail"]
            assert f"the file of API keys {fault}; the keys stay as they were" in detail
            assert str(path) not in detail
            assert (await client.get("/v1/models", headers=headers(keys["ada"]))).is_success
            write(path, good)
            await become(True)


async def test_a_pipe_in_the_place_of_the_file_hangs_nothing(tmp_path):
    path, keys = keys_file(tmp_path, ada="user")
    async with serving(api_keys_file=path) as client:
        path.unlink()
        os.mkfifo(path)
        await until(lambda: client.app.context.key_watch.fault)
        assert client.app.context.key_watch.fault == "is not a plain file"
        assert (await client.get("/v1/models", headers=headers(keys["ada"]))).is_success
