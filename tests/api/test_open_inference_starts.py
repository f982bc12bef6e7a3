"""A `sequence_start` is one atomic replacement, whoever starts the same sequence beside it."""

import asyncio
from contextlib import AsyncExitStack

import numpy as np
import pytest

from tests.api.crowded_starts import (
    PROBE,
    Start,
    alone,
    body_of,
    check_round,
    check_text_round,
    first_output,
    infer,
)
from tests.api.support import serving

ROWS = np.random.default_rng(8).normal(size=(3, 1, 3, 2)).astype(np.float32)


@pytest.fixture(params=[1, 2])
async def replicas(request, tmp_path):
    """Clients of one replica, or of two on one store."""
    store = f"sqlite:///{tmp_path / 'carry.db'}"
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(serving(store=store, durability="process"))
            for _ in range(request.param)
        ]


async def test_of_many_starts_at_once_each_is_answered_and_one_owns_the_sequence(replicas):
    for seed in range(4):
        await check_round(replicas, seed)


async def test_texts_that_start_at_once_do_not_mix(replicas):
    await check_text_round(replicas, 0)


def start_of(rows, ends=False):
    return Start("phase", "all", rows, ends, None).body(7)


async def test_a_start_whose_write_lost_to_a_later_one_does_not_undo_it(tmp_path):
    """Its client may have given it up, begun again elsewhere, and gone on."""
    store = f"sqlite:///{tmp_path / 'carry.db'}"
    async with serving(store=store) as slow, serving(store=store) as quick:
        await infer(slow, "phase", start_of(ROWS[0]))
        release = hold_commits(slow)
        given_up = asyncio.create_task(infer(slow, "phase", start_of(ROWS[1])))
        await release.reached()
        await infer(quick, "phase", start_of(ROWS[2]))
        release()
        expected = await alone(quick, "phase", "all", ROWS[1])
        assert first_output(await given_up) == pytest.approx(expected, abs=1e-5)
        await owned_by(quick, ROWS[2])


async def test_a_start_that_came_later_replaces_the_one_that_was_written_meanwhile(tmp_path):
    store = f"sqlite:///{tmp_path / 'carry.db'}"
    async with serving(store=store) as slow, serving(store=store) as quick:
        await infer(slow, "phase", start_of(ROWS[0]))
        first_commit, second_commit = hold_commits(slow), hold_commits(quick)
        earlier = asyncio.create_task(infer(slow, "phase", start_of(ROWS[1])))
        await first_commit.reached()
        later = asyncio.create_task(infer(quick, "phase", start_of(ROWS[2])))
        await second_commit.reached()
        first_commit()
        assert (await earlier).status_code == 200
        second_commit()
        assert (await later).status_code == 200
        await owned_by(quick, ROWS[2])


async def test_a_start_that_is_an_end_leaves_nothing_of_the_sequence_before(client):
    await infer(client, "phase", start_of(ROWS[0]))
    await infer(client, "phase", start_of(ROWS[1], ends=True))
    answer = await infer(client, "phase", body_of(PROBE, {"sequence_id": 7}))
    assert (answer.status_code, "START flag" in answer.json()["error"]) == (400, True)


async def owned_by(client, rows):
    """The sequence goes on behind these rows."""
    probed = await infer(client, "phase", body_of(PROBE, {"sequence_id": 7, "emit": "last"}))
    whole = await alone(client, "phase", "last", np.concatenate([rows, PROBE], axis=1))
    assert first_output(probed) == pytest.approx(whole, abs=1e-5)


class hold_commits:  # noqa: N801 -- reads as a verb
    """A replica commits nothing until this is called."""

    def __init__(self, client):
        store = client.app.context.engine.store
        self._asked, self._go_on = asyncio.Event(), asyncio.Event()
        commit = store.commit

        async def held(writes):
            self._asked.set()
            await self._go_on.wait()
            return await commit(writes)

        store.commit = held

    async def reached(self):
        async with asyncio.timeout(30):
            await self._asked.wait()

    def __call__(self):
        self._go_on.set()
