"""What only the store in memory promises: a sweep that costs what it takes."""

from service.stores import memory
from service.stores.base import TOMBSTONE_S
from service.stores.memory import MemoryStore
from tests.stores.support import after, commit, opened


async def test_a_sweep_leaves_what_it_does_not_take_where_it_lies(clock, monkeypatch):
    store = MemoryStore(clock)
    await opened(store, *(f"s{place}" for place in range(40)))
    clock.now += 101 + TOMBSTONE_S
    moved = []
    monkeypatch.setattr(memory._DueMinutes, "put", lambda *moving: moved.append(moving))
    names = {swept.key.name for _ in range(10) for swept in await store.sweep(4)}
    assert (len(names), moved) == (40, [])


async def test_a_sweep_looks_past_sessions_that_live_on_and_comes_to_an_end(clock):
    store = MemoryStore(clock)
    await opened(store, "x", "y")
    alive = await opened(store, *(f"s{place}" for place in range(10)))
    clock.now += 99
    for base in alive:
        assert await commit(store, after(base), base)
    clock.now += 2 + TOMBSTONE_S
    assert sorted(swept.key.name for swept in await store.sweep(3)) == ["x", "y"]
    assert await store.sweep(3) == []
    clock.now += 100
    assert len(await store.sweep(20)) == 10
