"""How sessions end, are swept and are opened again under the same name, in every store."""

import asyncio
import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.stores.base import TOMBSTONE_S
from service.stores.record.record import Key
from tests.stores.support import after, commit, opened, record_named


async def names_swept(store, limit=10):
    return sorted(swept.key.name for swept in await store.sweep(limit))


async def test_expiry_slides_with_every_commit_and_is_judged_by_the_store(store, clock):
    [record] = await opened(store, "a")
    for _ in range(2):
        clock.now += 99
        record = await commit(store, after(record), record)
        assert record.expires_at == clock.now + 100.0
    clock.now += 101
    assert await commit(store, after(record), record) is None


async def test_the_moment_of_expiry_is_expired_already(store, clock):
    one, two = await opened(store, "a", "b")
    clock.now += 99.5
    assert await commit(store, after(one), one)
    clock.now += 0.5
    assert await commit(store, after(two), two) is None
    assert [r.header.name for r in await store.list_live("t", None, "", 9)] == ["a"]
    assert await commit(store, record_named("b"))


async def test_a_step_may_shorten_and_lengthen_the_life_of_its_session(store, clock):
    one, two = await opened(store, "a", "b")
    one = await commit(store, after(one, ttl_s=10.0), one)
    two = await commit(store, after(two, ttl_s=1e6), two)
    clock.now += 11
    assert await commit(store, after(one), one) is None
    clock.now += 1000
    assert await commit(store, after(two), two)


async def test_a_name_is_free_again_after_expiry_and_after_closing(store, clock):
    await opened(store, "a")
    clock.now += 101
    [again] = await opened(store, "a")
    closed = await commit(store, after(again, closed="deleted"), again)
    assert await commit(store, after(closed), closed) is None
    assert await commit(store, record_named(model="mood"))


@pytest.mark.parametrize("ending", ["deleted", "expired", "swept"])
async def test_a_base_of_an_earlier_life_is_refused(store, clock, ending):
    [old] = await opened(store, "a")
    stepped = await commit(store, after(old), old)
    bases = [old, stepped]
    if ending == "deleted":
        bases.append(await commit(store, after(stepped, closed="deleted"), stepped))
    clock.now += {"deleted": 1, "expired": 101, "swept": 101 + TOMBSTONE_S}[ending]
    if ending == "swept":
        assert await names_swept(store) == ["a"]
        for base in bases:
            assert await commit(store, after(base), base) is None
            assert await store.load(base.key) is None
    [fresh] = await opened(store, "a")
    for base in bases:
        assert await commit(store, after(base), base) is None
        assert await commit(store, after(base, closed="deleted"), base) is None
    assert await store.load(fresh.key) == fresh


async def test_a_stale_base_never_touches_the_session_that_came_after_a_sweep(store, clock):
    """Nothing of a removed session, such as its rowid, is used for another one."""
    stale = await opened(store, "a", "b", "c")
    clock.now += 101 + TOMBSTONE_S
    assert await names_swept(store) == ["a", "b", "c"]
    fresh = await opened(store, "x", "y", "z")
    for base in stale:
        assert await commit(store, after(base), base) is None
    assert await store.list_live("t", None, "", 9) == fresh


async def test_sweep_returns_what_ended_long_ago_and_why(store, clock):
    expired, closed, live = [
        await commit(store, record_named(name, ttl_s=ttl_s))
        for name, ttl_s in (("a", 100.0), ("b", 100.0), ("c", 1e6))
    ]
    await commit(store, after(closed, closed="final"), closed)
    clock.now += 101
    assert await store.sweep(10) == []
    assert await store.load(expired.key) is not None
    clock.now += TOMBSTONE_S
    swept = await store.sweep(10)
    assert {(s.key.name, s.model, s.version, s.closed) for s in swept} == {
        ("a", "load", "1", ""),
        ("b", "load", "1", "final"),
    }
    assert await store.load(expired.key) is None
    assert await store.load(live.key) is not None
    assert await store.sweep(10) == []


async def test_nothing_is_swept_while_its_tombstone_stands(store, clock):
    [record] = await opened(store, "a")
    clock.now += record.ttl_s + TOMBSTONE_S - 1
    assert await store.sweep(10) == []
    assert (await store.load(record.key)).revision == record.revision
    clock.now += 1
    assert [swept.key for swept in await store.sweep(10)] == [record.key]


async def test_a_tombstone_stands_from_the_closing_not_from_the_expiry_that_was_due(store, clock):
    [record] = await opened(store, "a", ttl_s=1e6)
    clock.now += 50
    await commit(store, after(record, closed="deleted"), record)
    clock.now += TOMBSTONE_S - 1
    assert await store.sweep(10) == []
    assert (await store.load(record.key)).closed == "deleted"
    clock.now += 1
    assert await names_swept(store) == ["a"]


async def test_a_session_put_off_by_steps_is_not_swept_and_later_is(store, clock):
    reschedule, _quiet = await opened(store, "a", "b")
    for _ in range(10):
        clock.now += 99
        reschedule = await commit(store, after(reschedule), reschedule)
    assert await names_swept(store) == ["b"]
    assert await store.load(reschedule.key) == reschedule
    clock.now += 100 + TOMBSTONE_S - 1
    assert await store.sweep(10) == []
    clock.now += 1
    assert await names_swept(store) == ["a"]


async def test_a_close_that_came_too_late_does_not_put_the_sweep_off(store, clock):
    [record] = await opened(store, "a")
    clock.now += 400
    assert await commit(store, after(record, closed="deleted"), record) is None
    clock.now += TOMBSTONE_S - 300
    assert await names_swept(store) == ["a"]


async def test_a_name_opened_again_before_the_sweep_stays(store, clock):
    await opened(store, "a", "b")
    clock.now += 101 + TOMBSTONE_S
    [again] = await opened(store, "a", ttl_s=1e6)
    assert await names_swept(store) == ["b"]
    assert await store.load(again.key) == again
    assert await commit(store, after(again), again)


async def test_sweep_removes_at_most_its_limit(store, clock):
    await opened(store, *"abcde")
    clock.now += 101 + TOMBSTONE_S
    pages = [await store.sweep(2) for _ in range(4)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert {swept.key.name for page in pages for swept in page} == set("abcde")


async def test_sessions_that_were_put_off_do_not_change_how_much_a_sweep_takes(store, clock):
    kept = await opened(store, *"abcdefgh")
    clock.now += 50
    assert await commit(store, after(kept[0], ttl_s=1e6), kept[0])
    clock.now += 51 + TOMBSTONE_S
    pages = [await names_swept(store, 2) for _ in range(5)]
    assert max(map(len, pages)) == 2
    assert sorted(name for page in pages for name in page) == sorted("bcdefgh")


async def test_sessions_that_were_closed_and_swept_take_no_memory_any_more(store, clock):
    """Whatever their time to live was."""

    async def live_and_die(life):
        names = [f"{life}-{index}-{'x' * 500}" for index in range(200)]
        kept = await opened(store, *names, ttl_s=604_800.0)
        ends = [after(base, closed="deleted") for base in kept]
        await store.commit(
            [(end.header, end.data, base) for end, base in zip(ends, kept, strict=True)]
        )
        clock.now += 3600 + TOMBSTONE_S
        assert len(await store.sweep(1000)) == 200

    await live_and_die("first")
    tracemalloc.start()
    for life in range(5):
        await live_and_die(life)
    gc.collect()
    num_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_bytes < 3 * 200 * 500  # the names of five lives would take more


ACTIONS = ("open", "step", "close", "wait 70", "wait 400", "sweep", "sweep one")


def test_a_store_holds_what_a_dictionary_would_hold(open_empty, clock):
    """Any sequence of actions on three names, compared with a simple model."""

    @given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from("abc")), max_size=40))
    def check(actions):
        asyncio.run(check_lives(open_empty, clock, actions))

    check()


async def check_lives(open_empty, clock, actions):
    async with open_empty() as store:
        await check_lives_in(store, clock, actions)


async def check_lives_in(store, clock, actions):
    there = {}
    for action, name in actions:
        found = there.get(name)
        is_live = found is not None and not found.closed and found.expires_at > clock.now
        if action == "open":
            kept = await commit(store, record_named(name))
            assert (kept is None) == is_live
            there[name] = kept or found
        elif action in ("step", "close") and found:
            written = after(found, closed="deleted" if action == "close" else "")
            kept = await commit(store, written, found)
            assert (kept is not None) == is_live
            there[name] = kept or found
        elif action.startswith("wait"):
            clock.now += int(action.split()[1])
        elif action.startswith("sweep"):
            over = {n for n, r in there.items() if r.expires_at + TOMBSTONE_S <= clock.now}
            swept = await names_swept(store, 1 if action == "sweep one" else 10)
            if action == "sweep":
                assert set(swept) == over
            assert set(swept) <= over
            assert len(swept) <= 1 or action == "sweep"
            for each in swept:
                del there[each]
    for name in "abc":
        assert await store.load(Key("t", name)) == there.get(name)
