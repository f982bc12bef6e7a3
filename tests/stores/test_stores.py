"""One behavioural suite: every store passes the same tests. How sessions end is in `test_lives`."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from service.stores.base import TOMBSTONE_S
from service.stores.record.history import HistoryPolicy
from service.stores.record.record import Key
from tests.stores.support import NOW, after, commit, opened, record_named, unkept


async def test_an_absent_record_is_none(store):
    assert await store.load(Key("t", "nobody")) is None


async def test_a_record_is_loaded_as_it_was_written(store):
    record = record_named()
    kept = await commit(store, record)
    assert kept.expires_at == NOW + 100.0
    assert unkept(kept) == record
    assert await store.load(record.key) == kept


async def test_a_step_is_loaded_as_it_was_written(store):
    [base] = await opened(store, "a")
    step = after(base)
    kept = await commit(store, step, base)
    assert unkept(kept) == step
    assert await store.load(base.key) == kept


async def test_a_write_needs_the_record_it_was_computed_from(store):
    [first] = await opened(store, "a")
    second = await commit(store, after(first), first)
    assert second is not None
    assert await commit(store, after(first), first) is None
    assert (await store.load(first.key)).revision == second.revision


async def test_a_loaded_record_is_as_good_a_base_as_a_committed_one(store):
    [first] = await opened(store, "a")
    found = await store.load(first.key)
    second = await commit(store, after(found), found)
    assert await commit(store, after(first), first) is None
    assert (await store.load(first.key)).revision == second.revision


async def test_a_step_never_creates_a_record(store):
    await opened(store, "b")
    record = record_named()
    assert await commit(store, after(record), record) is None
    assert await store.load(record.key) is None
    assert len(await store.list_live("t", None, "", 9)) == 1


async def test_a_live_record_is_not_created_again(store):
    await opened(store, "a")
    assert await commit(store, record_named(model="mood")) is None
    assert (await store.load(Key("t", "a"))).header.model == "load"


async def test_one_lost_write_of_a_group_does_not_touch_the_others(store):
    [b] = await opened(store, "b")
    a, c, lost = record_named("a"), record_named("c"), after(b)
    strange = record_named("b")
    kept = await store.commit(
        [(a.header, a.data, None), (lost.header, lost.data, strange), (c.header, c.data, None)]
    )
    assert [each is not None for each in kept] == [True, False, True]
    assert (await store.load(b.key)).revision == b.revision


async def test_two_writes_of_one_record_in_a_group_apply_once(store):
    [base] = await opened(store, "a")
    one, two = after(base), after(base)
    kept = await store.commit([(base.header, one.data, base), (base.header, two.data, base)])
    assert [each is not None for each in kept] == [True, False]
    assert (await store.load(base.key)).revision == one.revision


async def test_two_creations_of_one_name_in_a_group_make_one_session(store):
    one, two = record_named("a"), record_named("a")
    kept = await store.commit([(each.header, each.data, None) for each in (one, two)])
    assert [each is not None for each in kept] == [True, False]
    assert (await store.load(one.key)).revision == one.revision


async def test_a_write_with_another_header_replaces_the_stored_one(store, clock):
    """As after an upgrade or a restore; a step based on the old record is refused."""
    base, bystander = await opened(store, "a", "b")
    other = record_named("a", model="mood", ttl_s=5.0, keeps=HistoryPolicy(3, 2, 1), metadata=None)
    lost = record_named("a", model="lost")
    kept = await commit(store, after(other), base)
    assert await commit(store, after(lost), base) is None
    found = await store.load(base.key)
    assert found == kept
    assert found.header == other.header
    assert await store.load(bystander.key) == bystander
    assert [r.header.name for r in await store.list_live("t", "mood", "", 9)] == ["a"]
    clock.now += 5 + TOMBSTONE_S
    assert [(swept.key.name, swept.model) for swept in await store.sweep(9)] == [("a", "mood")]


WRITES = ("step", "stale step", "close", "stale close", "create", "create what is there", "reopen")


def test_each_write_of_a_group_succeeds_or_fails_alone(open_empty):
    """Together with steps, creations and endings, in time and too late."""

    @given(st.lists(st.sampled_from(WRITES), min_size=1, max_size=12), st.integers(0))
    def check(kinds, seed):
        asyncio.run(check_group(open_empty, kinds, seed))

    check()


async def check_group(open_empty, kinds, seed):
    async with open_empty() as store:
        await check_group_in(store, kinds, seed)


async def check_group_in(store, kinds, seed):
    writes, expected = [], []
    for index, kind in enumerate(kinds):
        name = f"{seed}-{index}"
        record = record_named(name, model=f"m{index}")
        if kind == "create":
            writes.append((record.header, record.data, None))
            expected.append(record.data)
            continue
        first = await commit(store, record)
        base = await commit(store, after(first), first)
        if kind == "create what is there":
            writes.append((record.header, record_named(name).data, None))
            expected.append(None)
        elif kind == "reopen":
            assert await commit(store, after(base, closed="final"), base)
            again = record_named(name, model="again")
            writes.append((again.header, again.data, None))
            expected.append(again.data)
        else:
            step = after(base, closed="deleted" if kind.endswith("close") else "")
            writes.append((step.header, step.data, first if "stale" in kind else base))
            expected.append(None if "stale" in kind else step.data)
    before = [await store.load(Key("t", header.name)) for header, _, _ in writes]
    kept = await store.commit(writes)
    assert [each and each.data for each in kept] == expected
    for found, each in zip(before, kept, strict=True):
        key = (each or found).key
        assert await store.load(key) == (each or found)


async def test_a_session_keeps_its_rowid(store):
    kept = await opened(store, "a", "b")
    stepped = [await commit(store, after(base), base) for base in kept]
    found = [await store.load(base.key) for base in kept]
    listed = await store.list_live("t", None, "", 9)
    rowids = [each.rowid for each in kept]
    assert [each.rowid for each in stepped] == rowids
    assert [each.rowid for each in found] == rowids
    assert [each.rowid for each in listed] == rowids
    assert [each.data for each in found] == [each.data for each in stepped]


async def test_equal_names_of_two_tenants_are_separate(store):
    mine, theirs = record_named(tenant="t1", step=1), record_named(tenant="t2", step=2)
    assert await commit(store, mine)
    assert await commit(store, theirs)
    assert (await store.load(mine.key)).step == 1
    assert [r.step for r in await store.list_live("t1", None, "", 10)] == [1]


async def test_lists_hold_live_records_page_by_page(store, clock):
    for name in "edcba":
        await commit(store, record_named(name, model="mood" if name == "c" else "load"))
    gone = await store.load(Key("t", "b"))
    await commit(store, after(gone, closed="deleted"), gone)
    first = await store.list_live("t", None, "", 2)
    second = await store.list_live("t", None, first[-1].header.name, 9)
    assert [r.header.name for r in first + second] == ["a", "c", "d", "e"]
    assert [r.header.name for r in await store.list_live("t", "mood", "", 9)] == ["c"]
    clock.now += 101
    assert await store.list_live("t", None, "", 9) == []


async def test_usage_is_of_what_is_live_of_one_tenant(store, clock):
    assert await store.usage("t") == (0, 0)
    kept = await opened(store, "a", "b", "c")
    [alone] = await opened(store, "a", tenant="t2", ttl_s=1000.0)
    stepped = await commit(store, after(kept[0], state=b"s" * 1000), kept[0])
    await commit(store, after(kept[1], closed="deleted"), kept[1])
    num_sessions, num_bytes = await store.usage("t")
    assert num_sessions == 2
    data = len(stepped.data) + len(kept[2].data)
    assert data < num_bytes < data + 2 * 600
    clock.now += 101
    assert await store.usage("t") == (0, 0)
    assert (await store.usage("t2")).num_sessions == 1
    assert (await store.usage("t2")).num_bytes > len(alone.data)


async def test_usage_counts_more_than_one_page_of_an_index(store):
    names = [f"s{number}" for number in range(2500)]
    await opened(store, *names)
    assert (await store.usage("t")).num_sessions == len(names)


async def test_racing_writers_win_once_each_round(store):
    [record] = await opened(store, "a")
    for _ in range(20):
        rivals = [after(record) for _ in range(8)]
        outcomes = await asyncio.gather(*(commit(store, rival, record) for rival in rivals))
        [record] = [kept for kept in outcomes if kept]
        assert record == await store.load(record.key)


async def test_a_healthy_store_checks_out(store):
    await store.check()
