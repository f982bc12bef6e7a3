from contextlib import asynccontextmanager

import pytest

from service.stores.memory import MemoryStore
from service.stores.redis.store import RedisStore
from service.stores.redis.url import read_redis_url
from service.stores.sqlite.store import SqliteStore
from tests.leftovers import keep_for_session
from tests.stores.support import Clock
from tests.stores.valkey import running_cluster, running_valkey


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="session")
def valkey():
    with running_valkey() as server:
        keep_for_session(server.process.pid)
        yield server


@pytest.fixture(scope="session")
def valkey_cluster():
    with running_cluster() as nodes:
        for node in nodes:
            keep_for_session(node.process.pid)
        yield nodes


@pytest.fixture(params=["memory", "sqlite-power", "sqlite-process", "valkey", "valkey-cluster"])
def open_empty(request, clock, tmp_path):
    """Opens an empty store in the running event loop; closes it after the block."""
    name = request.param

    @asynccontextmanager
    async def opened_store():
        if name == "memory":
            store = MemoryStore(clock)
        elif name == "valkey":
            server = request.getfixturevalue("valkey")
            server.ask("FLUSHALL")
            store = RedisStore(read_redis_url(server.url), 5.0, clock)
        elif name == "valkey-cluster":
            nodes = request.getfixturevalue("valkey_cluster")
            for node in nodes:
                node.ask("FLUSHALL")
            url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
            store = RedisStore(read_redis_url(url), 5.0, clock)
        else:
            for file in tmp_path.glob("s.db*"):
                file.unlink()
            store = SqliteStore.open(tmp_path / "s.db", name.removeprefix("sqlite-"), clock)
        try:
            yield store
        finally:
            await store.close()

    return opened_store


@pytest.fixture
async def store(open_empty):
    async with open_empty() as opened:
        yield opened
