"""Named values: every store passes the same tests."""

import asyncio
import os

import pytest

from service.errors import OutcomeUnknownError
from service.stores.base import TOMBSTONE_S
from service.stores.redis import store as redis
from service.stores.redis.node import LostError
from service.stores.redis.store import RedisStore
from service.stores.redis.url import read_redis_url
from service.stores.sqlite.store import SqliteStore
from tests.stores.support import opened


async def test_a_value_that_was_never_set_is_empty(store):
    assert await store.read_value("models") == b""


async def test_a_value_is_read_as_it_was_set_and_names_are_separate(store):
    every_byte = bytes(range(256))
    assert await store.swap_value("models", b"", every_byte)
    assert await store.swap_value("others", b"", b"2")
    assert await store.read_value("models") == every_byte
    assert await store.read_value("others") == b"2"


async def test_a_swap_needs_the_value_it_came_from(store):
    assert not await store.swap_value("models", b"0", b"1")
    assert await store.swap_value("models", b"", b"1")
    assert not await store.swap_value("models", b"", b"2")
    assert not await store.swap_value("models", b"11", b"2")
    assert await store.read_value("models") == b"1"
    assert await store.swap_value("models", b"1", b"2")
    assert await store.read_value("models") == b"2"


async def test_each_of_racing_swaps_is_applied_once(store):
    async def count_up():
        while True:
            found = await store.read_value("count")
            if await store.swap_value("count", found, b"%d" % (int(found or b"0") + 1)):
                return

    await asyncio.gather(*(count_up() for _ in range(10)))
    assert await store.read_value("count") == b"10"


async def test_a_value_is_not_a_session_and_does_not_expire(store, clock):
    await store.swap_value("models", b"", b"1")
    await opened(store, "a")
    clock.now += 100 + TOMBSTONE_S
    assert [swept.key.name for swept in await store.sweep(9)] == ["a"]
    assert await store.list_live("t", None, "", 9) == []
    assert await store.read_value("models") == b"1"


@pytest.mark.parametrize("kind", ["sqlite-power", "sqlite-process", "valkey"])
async def test_other_processes_see_it_and_it_outlives_them(kind, tmp_path, request):
    def open_one():
        if kind == "valkey":
            return RedisStore(read_redis_url(request.getfixturevalue("valkey").url), 5.0)
        return SqliteStore.open(tmp_path / "s.db", kind.removeprefix("sqlite-"))

    name = os.urandom(8).hex()
    one, two = open_one(), open_one()
    assert await one.swap_value(name, b"", b"1")
    assert not await two.swap_value(name, b"", b"2")
    assert await two.swap_value(name, b"1", b"3")
    assert await one.read_value(name) == b"3"
    await one.close()
    await two.close()
    three = open_one()
    assert await three.read_value(name) == b"3"
    await three.close()


async def test_a_swap_whose_reply_was_lost_is_reported(valkey, monkeypatch):
    store = RedisStore(read_redis_url(valkey.url), 5.0)

    async def lose(_, calls):
        return [LostError("cut")] * len(calls)

    monkeypatch.setattr(redis, "run_scripts", lose)
    with pytest.raises(OutcomeUnknownError):
        await store.swap_value("models", b"", b"1")
    await store.close()
