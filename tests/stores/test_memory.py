"""The store in memory: the cost of a sweep depends on what it removes."""

from service.stores import memory
from service.stores.base import TOMBSTONE_S
from service.stores.memory import MemoryStore
from tests.stores.support import after, commit, opened


async def test_a_sweep_leaves_other_entries_in_place(clock, monkeypatch):
    store = MemoryStore(clock)
    await opened(store, *(f"s{index}" for index in range(40)))
    clock.now += 101 + TOMBSTONE_S
    moved = []
    monkeypatch.setattr(memory._DueMinutes, "put", lambda *moving: moved.append(moving))
    names = {swept.key.name for _ in range(10) for swept in await store.sweep(4)}
    assert (len(names), moved) == (40, [])


async def test_a_sweep_passes_over_live_sessions_and_ends(clock):
    store = MemoryStore(clock)
    await opened(store, "x", "y")
    alive = await opened(store, *(f"s{index}" for index in range(10)))
    clock.now += 99
    for base in alive:
        assert await commit(store, after(base), base)
    clock.now += 2 + TOMBSTONE_S
    assert sorted(swept.key.name for swept in await store.sweep(3)) == ["x", "y"]
    assert await store.sweep(3) == []
    clock.now += 100
    assert len(await store.sweep(20)) == 10
