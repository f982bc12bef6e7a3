"""Two replicas step one session at the same moment: exactly one wins, each time."""

import asyncio
import os

import numpy as np
import pytest

from service.errors import DigestMismatchError
from service.stores.redis.store import RedisStore
from service.stores.redis.url import read_redis_url
from service.stores.sqlite.store import SqliteStore
from tests.engine.support import A, create_load, outputs_of, running_engine, step_rows

NUM_RACES = int(os.environ.get("RACES", "2000"))


@pytest.fixture(params=["valkey", "sqlite-process"])
def open_replica(request, tmp_path):
    """Opens several stores on the same sessions."""
    if request.param == "valkey":
        server = request.getfixturevalue("valkey")
        server.ask("FLUSHALL")
        return lambda: RedisStore(read_redis_url(server.url), 10.0)
    return lambda: SqliteStore.open(tmp_path / "s.db", "process")


@pytest.mark.timeout(580)
async def test_of_two_replicas_one_wins_each_race_and_the_counts_add_up(open_replica):
    one, two = open_replica(), open_replica()
    values = np.random.default_rng(7).normal(size=(NUM_RACES, 2, 1, 2)).astype(np.float32)
    won = []
    async with running_engine(one) as here, running_engine(two) as there, running_engine() as calm:
        await here.submit(A, create_load(ttl_s=3600))
        for step in range(NUM_RACES):
            rivals = list(zip((here, there), values[step], strict=True))
            task = 1 if step % 2 == 0 else -1  # the first call wins nearly always
            replies = await asyncio.gather(
                *(engine.submit(A, step_rows(rows, step)) for engine, rows in rivals[::task]),
                return_exceptions=True,
            )
            replies = replies[::task]
            [winner] = [index for index in (0, 1) if not isinstance(replies[index], Exception)]
            assert isinstance(replies[1 - winner], DigestMismatchError)
            assert replies[1 - winner].members["expected_step"] == step + 1
            assert replies[winner].step == step + 1
            won.append(winner)
        assert (await one.load(A)).step == (await two.load(A)).step == NUM_RACES
        assert 0 < sum(won) < NUM_RACES
        applied = values[np.arange(NUM_RACES), won][:, 0]
        whole = await calm.submit(A, create_load(applied, ttl_s=3600))
        assert outputs_of(whole)["mean"] == pytest.approx(
            outputs_of(replies[winner])["mean"], abs=1e-4
        )
    await one.close()
    await two.close()
