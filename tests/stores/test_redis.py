"""The Redis store: the server's clock, failures write by write, no hanging calls."""

import asyncio
import signal
import time

import pytest
from structlog.testing import capture_logs

from service.errors import OutcomeUnknownError, StartUpError, StoreUnavailableError
from service.stores.base import TOMBSTONE_S, StoreOptions, WritesFailedError
from service.stores.factory import open_store
from service.stores.record.record import Key
from service.stores.redis import index as redis_index
from service.stores.redis import node as redis_node
from service.stores.redis.keys import index_keys, member_of, session_key, shard_of
from service.stores.redis.store import RedisStore
from service.stores.redis.url import read_redis_url
from tests.stores.support import after, commit, opened, record_named
from tests.stores.valkey import SAFE, running_cluster, running_valkey
from tests.system import free_port


@pytest.fixture
def server(valkey):
    valkey.ask("FLUSHALL")
    return valkey


@pytest.fixture
async def replicas(server, clock):
    """Two replicas on one server."""
    stores = [RedisStore(read_redis_url(server.url), 2.0, clock) for _ in range(2)]
    yield stores
    for each in stores:
        await each.close()


async def store_of(server, timeout_s=2.0):
    return RedisStore(read_redis_url(server.url), timeout_s)


async def test_expiry_is_judged_by_the_clock_of_the_server(server):
    store = await store_of(server)
    [long, short] = [
        await commit(store, record_named(name, ttl_s=ttl_s))
        for name, ttl_s in (("a", 60), ("b", 0.2))
    ]
    [seconds, micros] = server.ask("TIME")
    assert long.expires_at == pytest.approx(seconds + micros / 1e6 + 60, abs=5)
    assert await store.now() == pytest.approx(seconds + micros / 1e6, abs=5)
    while await store.now() < short.expires_at:
        await store.check()
    assert await commit(store, after(short), short) is None
    assert await commit(store, after(long), long)
    await store.close()


async def test_the_server_expires_nothing_that_is_stored(replicas, server):
    [record] = await opened(replicas[0], "a")
    await commit(replicas[0], after(record), record)
    keys = server.ask("KEYS", "*")
    assert len(keys) == 3
    assert {server.ask("PTTL", key) for key in keys} == {-1}


async def test_scripts_are_sent_again_to_a_server_without_them(replicas, server):
    store = replicas[0]
    kept = await opened(store, "a", "b")
    server.ask("SCRIPT", "FLUSH")
    steps = [after(base) for base in kept]
    writes = [(step.header, step.data, base) for step, base in zip(steps, kept, strict=True)]
    assert None not in await store.commit(writes)


async def test_a_repeated_write_has_the_same_result(replicas):
    store = replicas[0]
    record = record_named()
    kept = await commit(store, record)
    assert await commit(store, record) == kept
    step = after(kept)
    stepped = await commit(store, step, kept)
    assert await commit(store, step, kept) == stepped


async def test_replicas_that_sweep_at_once_report_each_expiry_once(replicas, clock):
    await opened(replicas[0], *(f"s{index}" for index in range(300)))
    clock.now += 101 + TOMBSTONE_S
    pages = await asyncio.gather(*(each.sweep(1000) for each in replicas * 3))
    assert sorted(swept.key.name for page in pages for swept in page) == sorted(
        f"s{index}" for index in range(300)
    )


async def test_an_entry_without_a_session_is_removed_when_it_is_due(replicas, server, clock):
    store = replicas[0]
    [record] = await opened(store, "a")
    member = member_of(record.key)
    names, due = index_keys(shard_of(member))
    server.ask("DEL", session_key(member))
    assert await store.list_live("t", None, "", 9) == []
    assert await store.sweep(10) == []
    assert server.ask("ZCARD", due) == 1
    clock.now += 101 + TOMBSTONE_S
    assert await store.sweep(10) == []
    assert server.ask("ZCARD", due) + server.ask("ZCARD", names) == 0


async def test_a_session_opened_while_its_name_is_swept_stays_in_the_lists(
    replicas, clock, monkeypatch
):
    """The sweeper reads the entry, the name is announced and opened, the sweeper continues."""
    store, rival = replicas
    await opened(store, "a")
    clock.now += 101 + TOMBSTONE_S
    run, fresh = redis_index.run_scripts, []

    async def run_after_the_rival(servers, calls):
        if not fresh:
            fresh.extend(await opened(rival, "a", ttl_s=1e6))
        return await run(servers, calls)

    monkeypatch.setattr(redis_index, "run_scripts", run_after_the_rival)
    assert await store.sweep(10) == []
    assert await store.list_live("t", None, "", 9) == fresh


async def test_a_damaged_record_is_refused_and_omitted_from_lists(replicas, server):
    store = replicas[0]
    await opened(store, "a", "b")
    server.ask("HSET", session_key(member_of(Key("t", "a"))), "d", b"\0\0\0\0rubbish")
    with pytest.raises(Exception, match="damaged"):
        await store.load(Key("t", "a"))
    assert [each.header.name for each in await store.list_live("t", None, "", 9)] == ["b"]


async def test_a_full_server_refuses_each_write_and_keeps_what_it_has(server, clock):
    with running_valkey(maxmemory_policy="noeviction") as full:
        store = RedisStore(read_redis_url(full.url), 2.0, clock)
        [record] = await opened(store, "a")
        full.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(WritesFailedError) as caught:
            await store.commit([(record.header, after(record).data, record)] * 2)
        for outcome in caught.value.outcomes:
            assert type(outcome) is StoreUnavailableError
            assert outcome.retry_after_s == 1
        with pytest.raises(StoreUnavailableError):
            await store.check()
        assert await store.load(record.key) == record
        full.ask("CONFIG", "SET", "maxmemory", "0")
        await store.check()
        assert await commit(store, after(record), record)
        await store.close()


async def test_a_full_server_is_swept_past_sessions_that_live_on(clock):
    with running_valkey(maxmemory_policy="noeviction") as full:
        store = RedisStore(read_redis_url(full.url), 2.0, clock)
        alive = await opened(store, *"abcdef", ttl_s=1000.0)
        await opened(store, "x", "y", ttl_s=1050.0)
        clock.now += 900
        for base in alive:
            assert await commit(store, after(base), base)
        clock.now += 151 + TOMBSTONE_S
        full.ask("CONFIG", "SET", "maxmemory", "1")
        assert sorted(swept.key.name for swept in await store.sweep(4)) == ["x", "y"]
        assert await store.sweep(4) == []
        clock.now += 1000
        full.ask("CONFIG", "SET", "maxmemory", "0")
        assert {swept.key.name for swept in await store.sweep(10)} == set("abcdef")
        await store.close()


async def test_a_sweep_that_can_change_nothing_ends(clock, monkeypatch):
    run, rounds = redis_index.run_scripts, []

    async def run_and_count(servers, calls):
        rounds.append(len(calls))
        return await run(servers, calls)

    with running_valkey() as server:
        store = RedisStore(read_redis_url(server.url), 2.0, clock)
        await opened(store, *"abc")
        clock.now += 101 + TOMBSTONE_S
        server.ask("REPLICAOF", "127.0.0.1", free_port())
        monkeypatch.setattr(redis_index, "run_scripts", run_and_count)
        assert await store.sweep(2) == []
        assert rounds == [2, 0]
        server.ask("REPLICAOF", "NO", "ONE")
        assert len(await store.sweep(10)) == 3
        await store.close()


async def test_a_server_that_only_reads_refuses_writes(clock):
    with running_valkey() as primary, running_valkey() as replica:
        replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        store = RedisStore(read_redis_url(replica.url), 2.0, clock)
        with pytest.raises(StoreUnavailableError, match=r"refused|could not be written"):
            await commit(store, record_named())
        await store.close()


async def test_one_server_of_a_cluster_that_is_away_fails_only_its_own_sessions(clock):
    with running_cluster() as nodes:
        for node in nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        store = RedisStore(read_redis_url(f"redis+cluster://127.0.0.1:{nodes[0].port}"), 2.0, clock)
        kept = await opened(store, *(f"s{index}" for index in range(30)))
        nodes[2].kill()
        writes = [(base.header, after(base).data, base) for base in kept]
        with pytest.raises(WritesFailedError) as caught:
            await store.commit(writes)
        failed = [isinstance(each, StoreUnavailableError) for each in caught.value.outcomes]
        assert 0 < sum(failed) < 30
        assert None not in caught.value.outcomes
        await store.close()


async def test_a_server_that_hangs_is_given_up_and_then_refused_at_once():
    with running_valkey() as server:
        store = await store_of(server, timeout_s=1.0)
        [record] = await opened(store, "a")
        server.signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(WritesFailedError) as caught:
            await commit(store, after(record), record)
        assert isinstance(caught.value.outcomes[0], OutcomeUnknownError)
        with pytest.raises(StoreUnavailableError):
            await store.load(record.key)
        assert time.monotonic() - started < 5
        server.signal(signal.SIGCONT)
        await back(store)
        assert (await store.load(record.key)).step in (record.step, record.step + 1)
        await store.close()


async def test_after_a_failure_calls_fail_at_once_for_a_while(monkeypatch):
    monkeypatch.setattr(redis_node, "_FIRST_BACKOFF_S", 1000.0)
    monkeypatch.setattr(redis_node, "_LAST_BACKOFF_S", 1000.0)
    with running_valkey() as server:
        store = await store_of(server)
        await store.check()
        server.kill()
        with pytest.raises(StoreUnavailableError):
            await store.check()
        server.start()
        with pytest.raises(StoreUnavailableError, match=r"cannot be reached|could not be read"):
            await store.check()
        await store.close()


async def test_a_server_that_restarts_is_found_again_with_all_that_was_acknowledged(clock):
    with running_valkey(
        **{name.replace("-", "_"): value for name, value in SAFE.items()}
    ) as server:
        store = RedisStore(read_redis_url(server.url), 2.0, clock)
        [record] = await opened(store, "a")
        kept = await commit(store, after(record), record)
        server.kill()
        with pytest.raises(StoreUnavailableError):
            await store.load(record.key)
        server.start()
        await back(store)
        assert await store.load(record.key) == kept
        await store.close()


async def back(store):
    """Return when the store accepts writes again."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await store.check()
            except StoreUnavailableError:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("settings", "durability", "warnings"),
    [
        (SAFE, "server: synced before every reply", 0),
        (SAFE | {"appendfsync": "everysec"}, "server: synced every second", 1),
        ({"maxmemory-policy": "allkeys-lru"}, "server: a log of writes is off", 2),
    ],
)
async def test_the_durability_of_the_server_is_reported_and_less_than_full_warned_of(
    settings, durability, warnings
):
    with running_valkey(**settings) as server, capture_logs() as logs:
        store = open_store(server.url)
        assert store.durability == durability
        assert sum(line["log_level"] == "warning" for line in logs) == warnings
        await store.close()


async def test_a_server_that_is_down_does_not_stop_the_start_and_is_inspected_later():
    port = free_port()
    store = open_store(f"redis://127.0.0.1:{port}", StoreOptions(timeout_s=0.5))
    assert store.durability == "server: not reached yet"
    with pytest.raises(StoreUnavailableError):
        await store.check()
    with running_valkey(port=port, **SAFE):
        await back(store)
        assert store.durability == "server: synced before every reply"
    await store.close()


async def test_a_server_that_denies_access_stops_the_start_without_the_password():
    with running_valkey(requirepass="right") as server:
        store = open_store(f"redis://:right@127.0.0.1:{server.port}")
        await store.check()
        await store.close()
        for url in (f"redis://:hunter2@127.0.0.1:{server.port}", server.url):
            with (
                capture_logs() as logs,
                pytest.raises(StartUpError, match="denies access") as caught,
            ):
                open_store(url)
            assert "hunter2" not in str(caught.value) + str(logs)


async def test_an_address_of_another_topology_stops_the_start(valkey_cluster):
    with pytest.raises(StartUpError, match=r"expected redis\+cluster"):
        open_store(valkey_cluster[0].url)


async def test_a_database_that_is_not_there_stops_the_start(server):
    with pytest.raises(StartUpError, match="an existing database"):
        open_store(f"{server.url}/99")
