"""With hanging servers, each call of the store ends in time, in every topology."""

import asyncio
import signal
import time
from contextlib import ExitStack

import pytest

from service.errors import StoreUnavailableError
from service.stores.record.record import Key
from service.stores.redis.store import RedisStore
from service.stores.redis.url import read_redis_url
from tests.stores.support import after, commit, opened, record_named
from tests.stores.valkey import running_cluster, running_valkey, wait_until

TIMEOUT_S = 3.0
SLACK_S = 2.0
"""Less than the timeout, so that two timeouts in a row fail the test."""


def sentinel_of(primary):
    # It reports the primary as down only after the end of this test.
    return (
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 600000\n"
    )


@pytest.fixture(params=["single", "sentinel", "all behind sentinel", "cluster"])
def servers(request):
    """The URL of a store, and its servers that hang."""
    with ExitStack() as stack:
        if request.param == "cluster":
            nodes = stack.enter_context(running_cluster())
            yield f"redis+cluster://127.0.0.1:{nodes[0].port}", nodes
            return
        server = stack.enter_context(running_valkey())
        if request.param == "single":
            yield server.url, [server]
            return
        sentinel = stack.enter_context(running_valkey(sentinel=sentinel_of(server)))
        wait_until(lambda: sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"))
        hanging = [server, sentinel] if request.param.startswith("all") else [server]
        yield f"redis+sentinel://127.0.0.1:{sentinel.port}/main", hanging


def hang(servers, how=signal.SIGSTOP):
    for server in servers:
        server.signal(how)


async def back(store):
    async with asyncio.timeout(60):
        while True:
            try:
                return await store.check()
            except StoreUnavailableError:
                await asyncio.sleep(0.02)


async def test_every_call_ends_within_the_time(servers):
    url, hanging = servers
    store = RedisStore(read_redis_url(url), TIMEOUT_S)
    bases = await opened(store, *(f"s{index}" for index in range(40)))
    calls = {
        "commit": lambda: commit(store, after(bases[0]), bases[0]),
        "open": lambda: commit(store, record_named("new")),
        "load": lambda: store.load(Key("t", "s1")),
        "list": lambda: store.list_live("t", None, "", 10),
        "usage": lambda: store.usage("t"),
        "check": store.check,
        "sweep": lambda: store.sweep(10),
        "read_value": lambda: store.read_value("v"),
        "swap_value": lambda: store.swap_value("v", b"", b"1"),
        "many": lambda: asyncio.gather(
            *(commit(store, after(base), base) for base in bases[1:]), return_exceptions=True
        ),
    }
    took_s = {}
    for name, call in calls.items():
        hang(hanging)
        started = time.monotonic()
        [outcome] = await asyncio.gather(call(), return_exceptions=True)
        took_s[name] = time.monotonic() - started
        failed = outcome if isinstance(outcome, list) else [outcome]
        assert all(isinstance(each, StoreUnavailableError) for each in failed), (name, outcome)
        hang(hanging, signal.SIGCONT)
        await back(store)
    await store.close()
    assert max(took_s.values()) < TIMEOUT_S + SLACK_S, took_s
