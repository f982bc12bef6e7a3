"""Writes travel to the store in groups, and each is answered by what became of it there."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from service.engine.dispatch import group_commit as committer_module
from service.engine.dispatch.group_commit import Committer
from service.engine.observer import NullObserver
from service.errors import StoreUnavailableError
from tests.engine.fakes import settle

AT_MOST_S = 5.0


class SlowStore:
    """Keeps each group until it is told what becomes of it: a list, or an error to raise."""

    def __init__(self, waits):
        self.waits = waits
        self.groups = []

    async def commit(self, writes):
        future = asyncio.get_running_loop().create_future()
        self.groups.append((list(writes), future))
        return await future

    def end(self, place, outcome=None):
        writes, future = self.groups[place]
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result([f"kept {write}" for write in writes] if outcome is None else outcome)

    @property
    def sizes(self):
        return [len(writes) for writes, _ in self.groups]


@asynccontextmanager
async def committing(waits):
    store = SlowStore(waits)
    committer = Committer(store, NullObserver())
    task = asyncio.create_task(committer.run())
    try:
        async with asyncio.timeout(AT_MOST_S):
            yield committer, store, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def put(committer, answers, *writes):
    committer.put(list(writes), lambda outcomes: answers.append((writes, list(outcomes))))


def kept(*writes):
    return writes, [f"kept {write}" for write in writes]


@pytest.mark.parametrize("waits", [False, True])
async def test_what_gathers_while_the_store_is_busy_is_the_next_group(waits):
    async with committing(waits) as (committer, store, _):
        answers = []
        num_at_once = 3 if waits else 1
        for place in range(num_at_once):
            put(committer, answers, f"a{place}")
            await settle()
        assert store.sizes == [1] * num_at_once
        for place in range(5):
            put(committer, answers, f"b{place}", f"c{place}")
        await settle()
        assert store.sizes == [1] * num_at_once
        store.end(0)
        await settle()
        assert store.sizes == [1] * num_at_once + [10]
        assert answers == [kept("a0")]
        store.end(num_at_once)
        await settle()
        assert answers[1:] == [kept(f"b{place}", f"c{place}") for place in range(5)]


async def test_a_store_that_waits_may_end_groups_in_any_order():
    async with committing(waits=True) as (committer, store, _):
        answers = []
        for name in "abc":
            put(committer, answers, name + "1", name + "2")
            await settle()
        assert store.sizes == [2, 2, 2]
        store.end(2, ["c1 now", None])
        await settle()
        store.end(0)
        await settle()
        error = StoreUnavailableError("away", retry_after_s=1)
        store.end(1, error)
        await settle()
        assert answers == [
            (("c1", "c2"), ["c1 now", None]),
            kept("a1", "a2"),
            (("b1", "b2"), [error, error]),
        ]


async def test_a_group_that_fails_is_told_to_its_own_and_the_next_is_written():
    for waits in (False, True):
        async with committing(waits) as (committer, store, task):
            answers = []
            put(committer, answers, "a", "b")
            await settle()
            store.end(0, ValueError("driver"))
            await settle()
            put(committer, answers, "c")
            await settle()
            store.end(1)
            await settle()
            [(_, errors), last] = answers
            assert [type(error) for error in errors] == [StoreUnavailableError] * 2
            assert "not known" in errors[0].detail
            assert last == kept("c")
            assert not task.done()


@pytest.mark.parametrize("waits", [False, True])
async def test_groups_are_bounded_and_no_part_of_what_was_put_is_cut(waits, monkeypatch):
    monkeypatch.setattr(committer_module, "_MAX_GROUP", 5)
    async with committing(waits) as (committer, store, _):
        answers, parts = [], []
        for place in range(12):
            parts.append([f"{place}-{each}" for each in range(3)])
            put(committer, answers, *parts[-1])
        num_ended = 0
        while len(answers) < 12:
            await settle()
            while num_ended < len(store.groups):
                store.end(num_ended)
                num_ended += 1
        assert store.sizes == [6] * 6
        assert answers == [kept(*part) for part in parts]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_defect_behind_a_commit_ends_the_task_at_once(waits):
    """Whoever watches the task answers the clients; no other write needs to come for that."""

    def explode(_):
        raise RuntimeError("defect")

    async with committing(waits) as (committer, store, task):
        committer.put(["a"], explode)
        await settle()
        store.end(0)
        await settle()
        assert task.done()
        assert isinstance(task.exception(), RuntimeError)


@pytest.mark.parametrize(("num_writes", "is_first"), [(9, False), (1, True)])
async def test_many_writes_let_others_go_first_and_few_do_not_wait(num_writes, is_first):
    async with committing(waits=False) as (committer, store, _):
        await settle()
        seen = []
        # What was ready makes something ready in its turn, as steps that come begin a batch.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, lambda: seen.append(store.sizes))
        put(committer, [], *range(num_writes))
        await settle()
        assert seen == [[num_writes] if is_first else []]
        assert store.sizes == [num_writes]
        store.end(0)
