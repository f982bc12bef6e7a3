"""The store dies, hangs, is cut off or loses answers: no step is lost, repeated or hung upon."""

import asyncio
import signal
import time
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.e2e.fault_run import run_clients
from tests.e2e.server import running_server
from tests.e2e.wire import wire_to
from tests.fakes.bundles import write_forecaster
from tests.stores.valkey import SAFE, running_valkey

CREATE = {"model": "load", "session": "s", "start": "2016-08-22"}
STORE_TIMEOUT_S = 0.5
DEADLINE_S = 4.0
SLACK_S = 6.0
"""Of a machine that does other things: what is asserted is that an answer comes at all in time."""


@asynccontextmanager
async def served(tmp_path):
    """A Valkey server that keeps all, a wire to it, and a replica that reaches it by the wire."""
    write_forecaster(tmp_path / "models")
    with running_valkey(**SAFE) as valkey:
        async with wire_to(valkey.port) as wire:

            def start():
                return running_server(
                    tmp_path,
                    models=tmp_path / "models",
                    store=f"redis://127.0.0.1:{wire.port}",
                    store_timeout_s=STORE_TIMEOUT_S,
                    request_timeout_s=DEADLINE_S,
                    models_poll_s=0,  # so that nothing asks the store but the steps
                )

            running = start()
            server = await asyncio.to_thread(running.__enter__)
            try:
                async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
                    yield valkey, wire, server, client
            finally:
                await asyncio.to_thread(running.__exit__, None, None, None)


async def step(client, count):
    body = {"step": count, "observations": [[1.0, 2.0]]}
    return await client.post("/v1/sessions/s/steps", json=body)


async def refused(client, count):
    """A step that the store cannot keep is 503 with Retry-After, within the deadline."""
    started = time.monotonic()
    answer = await step(client, count)
    took_s = time.monotonic() - started
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "1"
    assert took_s < DEADLINE_S + SLACK_S
    return answer.json()["type"].rpartition(":")[2]


async def goes_on(client, count):
    """The step is answered once the store is back, and was applied once."""
    async with asyncio.timeout(60):
        answer = await step(client, count)
        while answer.status_code == 503:
            await asyncio.sleep(0.05)  # as a client waits before a retry
            answer = await step(client, count)
    assert answer.status_code == 200, answer.text
    assert answer.json()["step"] == count + 1


async def test_while_the_store_is_dead_steps_are_503_and_then_go_on(tmp_path):
    async with served(tmp_path) as (valkey, _, _, client):
        (await client.post("/v1/sessions", json=CREATE)).raise_for_status()
        await goes_on(client, 0)
        valkey.kill()
        # The first may be under way before the service sees that its connection is cut.
        assert await refused(client, 1) in ("store-unavailable", "deadline-exceeded")
        for _ in range(4):
            assert await refused(client, 1) == "store-unavailable"
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
        await asyncio.to_thread(valkey.start)
        await goes_on(client, 1)
        assert (await client.get("/readyz")).status_code == 200


async def test_a_store_that_hangs_holds_no_request_beyond_its_deadline(tmp_path):
    async with served(tmp_path) as (valkey, _, _, client):
        (await client.post("/v1/sessions", json=CREATE)).raise_for_status()
        await goes_on(client, 0)
        valkey.signal(signal.SIGSTOP)
        for _ in range(3):
            assert await refused(client, 1) in ("store-unavailable", "deadline-exceeded")
        valkey.signal(signal.SIGCONT)
        await goes_on(client, 1)
        await goes_on(client, 2)


async def test_an_answer_lost_behind_a_write_is_found_out_and_nobody_notices(tmp_path):
    async with served(tmp_path) as (_, wire, _, client):
        (await client.post("/v1/sessions", json=CREATE)).raise_for_status()
        await goes_on(client, 0)
        for count in range(1, 6):
            wire.is_swallowing = True
            wire.has_swallowed.clear()
            asking = asyncio.create_task(step(client, count))
            async with asyncio.timeout(30):
                await wire.has_swallowed.wait()
            wire.is_swallowing = False
            wire.cut()
            answer = await asking
            assert answer.status_code == 200, answer.text
            assert answer.json()["step"] == count + 1
            assert "idempotent-replayed" not in answer.headers


NUM_FAULTS = 12


def fault_maker(valkey, wire):
    async def dies():
        await asyncio.to_thread(valkey.kill)
        await asyncio.to_thread(valkey.start)

    async def is_cut():
        wire.cut()

    async def is_away(seconds):
        wire.is_down = True
        wire.cut()
        await asyncio.sleep(seconds)
        wire.is_down = False

    async def swallows(seconds):
        wire.is_swallowing = True
        await asyncio.sleep(seconds)
        wire.is_swallowing = False
        wire.cut()

    async def hangs(seconds):
        valkey.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        valkey.signal(signal.SIGCONT)

    async def chaos(progress, rng):
        kinds = [0, 1, 2, 3, 4] * NUM_FAULTS
        rng.shuffle(kinds := kinds[:NUM_FAULTS])
        for kind, count in zip(
            kinds, sorted(rng.sample(range(progress.total), NUM_FAULTS)), strict=True
        ):
            await progress.reaches(count)
            seconds = rng.uniform(0.05, 1.5)
            faults = dies(), is_cut(), is_away(seconds), swallows(seconds), hangs(seconds)
            for place, fault in enumerate(faults):
                if place == kind:
                    await fault
                else:
                    fault.close()

    return chaos


@pytest.mark.timeout(600)
async def test_whatever_happens_to_the_store_every_session_ends_at_its_count(tmp_path):
    async with served(tmp_path) as (valkey, wire, server, _):
        chaos = fault_maker(valkey, wire)
        clients = await run_clients(
            [server.url], tmp_path / "models", 32, 150, chaos, timeout_s=DEADLINE_S + SLACK_S
        )
        assert sum(client.num_retries for client in clients) > 0
