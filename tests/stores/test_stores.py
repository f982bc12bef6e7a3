"""One behavioural suite: every store passes the same tests."""

import asyncio
from dataclasses import fields

import pytest

from service.contract.text import TextCursor
from service.stores.base import TOMBSTONE_S, Write
from service.stores.memory import MemoryStore
from service.stores.record import KeptReply, Key, Opening, Record, new_revision
from service.stores.sqlite import SqliteStore

NOW = 1_000_000.0


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite-power", "sqlite-process"])
async def store(request, clock, tmp_path):
    if request.param == "memory":
        opened = MemoryStore(clock)
    else:
        durability = request.param.removeprefix("sqlite-")
        opened = SqliteStore.open(tmp_path / "s.db", durability, clock)
    yield opened
    await opened.close()


OPENING_FIELDS = {field.name for field in fields(Opening)}


def record_named(name="a", tenant="t", **changes):
    opening = {
        "model": "load",
        "version": "1",
        "state_schema": "s",
        "graph_sha256": "g",
        "start_s": 86400,
        "ring_size": 2,
        "created_at": NOW,
        "metadata": {"place": "Clark/Lake", "n": [1, None]},
        "reply": KeptReply(0, 0, b"c" * 16, b"out"),
    }
    opening |= {k: v for k, v in changes.items() if k in OPENING_FIELDS}
    return Record(
        opening=Opening(tenant=tenant, name=name, **opening),
        revision=new_revision(),
        step=changes.get("step", 0),
        state=b"\x00\x01state",
        cursor=TextCursor(" 최고👍", 3),
        ring=(KeptReply(0, 2, b"d" * 16, b"\x01\x02"), KeptReply(2, 1, b"e" * 16, b"")),
        ttl_s=changes.get("ttl_s", 100.0),
        updated_at=NOW,
    )


def after(record, **changes):
    return record._replace(revision=new_revision(), step=record.step + 1, **changes)


async def commit(store, record, expected):
    [outcome] = await store.commit([Write(record, expected)])
    return outcome.committed


async def test_an_absent_record_is_none(store):
    assert await store.load(Key("t", "nobody")) is None


async def test_a_record_comes_back_as_it_was_written(store):
    record = record_named()
    [outcome] = await store.commit([Write(record, None)])
    found = await store.load(record.key)
    assert outcome.committed
    assert outcome.expires_at == found.expires_at == NOW + 100.0
    assert found._replace(expires_at=0.0) == record


async def test_a_write_needs_the_revision_it_was_computed_from(store):
    first = record_named()
    second, third = after(first), after(first)
    assert await commit(store, first, None)
    assert await commit(store, second, first.revision)
    assert not await commit(store, third, first.revision)
    assert (await store.load(first.key)).revision == second.revision


async def test_a_step_never_creates_a_record(store):
    record = record_named()
    assert not await commit(store, record, new_revision())
    assert await store.load(record.key) is None


async def test_a_live_record_is_not_created_again(store):
    first, other = record_named(), record_named(model="mood")
    assert await commit(store, first, None)
    assert not await commit(store, other, None)
    assert (await store.load(first.key)).opening.model == "load"


async def test_one_lost_write_of_a_group_does_not_touch_the_others(store):
    a, b, c = record_named("a"), record_named("b"), record_named("c")
    assert await commit(store, b, None)
    writes = [Write(a, None), Write(after(b), new_revision()), Write(c, None)]
    assert [o.committed for o in await store.commit(writes)] == [True, False, True]
    assert (await store.load(b.key)).revision == b.revision


async def test_two_writes_of_one_record_in_a_group_apply_once(store):
    record = record_named()
    await commit(store, record, None)
    writes = [Write(after(record), record.revision), Write(after(record), record.revision)]
    assert [o.committed for o in await store.commit(writes)] == [True, False]


async def test_expiry_slides_with_every_commit_and_is_judged_by_the_store(store, clock):
    record = record_named()
    await commit(store, record, None)
    clock.now += 99
    second = after(record)
    assert await commit(store, second, record.revision)
    clock.now += 99
    third = after(second)
    assert await commit(store, third, second.revision)
    clock.now += 101
    assert not await commit(store, after(third), third.revision)


async def test_a_name_is_free_again_after_expiry_and_after_closing(store, clock):
    record = record_named()
    await commit(store, record, None)
    clock.now += 101
    again = record_named()
    assert await commit(store, again, None)
    closed = after(again, closed="deleted")
    assert await commit(store, closed, again.revision)
    assert not await commit(store, after(closed), closed.revision)
    assert await commit(store, record_named(model="mood"), None)


async def test_tenants_with_equal_names_never_meet(store):
    mine, theirs = record_named(tenant="t1", step=1), record_named(tenant="t2", step=2)
    assert await commit(store, mine, None)
    assert await commit(store, theirs, None)
    assert (await store.load(mine.key)).step == 1
    assert [r.step for r in await store.list_live("t1", None, "", 10)] == [1]


async def test_lists_hold_live_records_page_by_page(store, clock):
    for name in "edcba":
        await commit(store, record_named(name, model="mood" if name == "c" else "load"), None)
    gone = await store.load(Key("t", "b"))
    await commit(store, after(gone, closed="deleted"), gone.revision)
    first = await store.list_live("t", None, "", 2)
    second = await store.list_live("t", None, first[-1].opening.name, 9)
    assert [r.opening.name for r in first + second] == ["a", "c", "d", "e"]
    assert [r.opening.name for r in await store.list_live("t", "mood", "", 9)] == ["c"]
    clock.now += 101
    assert await store.list_live("t", None, "", 9) == []


async def test_sweep_takes_what_ended_long_ago_and_says_how(store, clock):
    expired, closed, live = record_named("a"), record_named("b"), record_named("c", ttl_s=1e6)
    for record in (expired, closed, live):
        await commit(store, record, None)
    await commit(store, after(closed, closed="final"), closed.revision)
    clock.now += 101
    assert await store.sweep(10) == []
    assert await store.load(expired.key) is not None
    clock.now += TOMBSTONE_S
    swept = await store.sweep(10)
    assert {(s.key.name, s.closed) for s in swept} == {("a", ""), ("b", "final")}
    assert await store.load(expired.key) is None
    assert await store.load(live.key) is not None
    assert await store.sweep(10) == []


async def test_nothing_is_swept_while_its_tombstone_stands(store, clock):
    record = record_named()
    await commit(store, record, None)
    clock.now += record.ttl_s + TOMBSTONE_S - 1
    assert await store.sweep(10) == []
    assert (await store.load(record.key)).revision == record.revision
    clock.now += 1
    assert [swept.key for swept in await store.sweep(10)] == [record.key]


async def test_sweep_takes_no_more_than_it_is_asked_to(store, clock):
    for name in "abcde":
        await commit(store, record_named(name), None)
    clock.now += 101 + TOMBSTONE_S
    pages = [await store.sweep(2) for _ in range(4)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert {swept.key.name for page in pages for swept in page} == set("abcde")


async def test_racing_writers_win_once_each_round(store):
    record = record_named()
    await commit(store, record, None)
    for _ in range(20):
        rivals = [after(record) for _ in range(8)]
        outcomes = await asyncio.gather(*(commit(store, r, record.revision) for r in rivals))
        assert sum(outcomes) == 1
        record = rivals[outcomes.index(True)]


async def test_a_healthy_store_checks_out(store):
    await store.check()
