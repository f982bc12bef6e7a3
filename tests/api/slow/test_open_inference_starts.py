"""The crowd of `tests/api/test_open_inference_starts.py`, for long, on every kind of store."""

import os
from contextlib import AsyncExitStack

import pytest

from tests.api.crowded_starts import check_round, check_text_round
from tests.api.support import serving
from tests.stores.valkey import SAFE, running_valkey

NUM_ROUNDS = int(os.environ.get("ROUNDS", "200"))


@pytest.fixture(params=["memory", "sqlite", "valkey"])
async def replicas(request, tmp_path):
    async with AsyncExitStack() as stack:
        urls = ["memory://"]
        if request.param == "sqlite":
            urls = [f"sqlite:///{tmp_path / 'carry.db'}"] * 2
        elif request.param == "valkey":
            urls = [stack.enter_context(running_valkey(**SAFE)).url] * 2
        yield [
            await stack.enter_async_context(serving(store=url, durability="process"))
            for url in urls
        ]


@pytest.mark.timeout(580)
async def test_twelve_clients_start_one_sequence_at_once_round_after_round(replicas):
    for seed in range(NUM_ROUNDS):
        await check_round(replicas, seed)
        if seed % 4 == 0:
            await check_text_round(replicas, seed)
