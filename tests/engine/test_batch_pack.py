"""A batch of plain steps is written by columns: the same records as one by one."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.text import UNREAD, TextCursor
from service.engine.dispatch import dispatcher as tasks
from service.engine.session.requests import Observations, StepRequest, digests_of_rows
from service.engine.session.rules import seed_record, stepped, stepped_alike
from service.stores.record.record import Key, Record, check_data, pack_data, revision_of
from service.stores.record.replies import pack_reply
from tests.engine.support import (
    A,
    create_load,
    outputs_of,
    rows,
    running_engine,
    small_models,
    step_rows,
)

NO_TEXT = TextCursor("")
OPENING = seed_record(A, small_models().get("load"), create_load(), 0.0).header

one_step = st.tuples(
    st.integers(0, 2**50),  # steps before
    st.integers(1, 9),  # rows of the request
    st.floats(0.001, 1e9),  # ttl
    st.booleans(),  # whether a reply is kept already
)


def unlike(data):
    """All but the revision."""
    return data.replace(revision_of(data), bytes(16), 1)


@given(
    st.lists(one_step, min_size=1, max_size=40),
    st.integers(1, 300),
    st.integers(1, 60),
    st.floats(0, 4e9),
    st.integers(0, 2**32 - 1),
)
def test_steps_packed_together_are_the_same_bytes_as_one_by_one(
    batch, state_bytes, output_bytes, now, seed
):
    rng = np.random.default_rng(seed)
    bases, requests = [], []
    for step, count, ttl_s, has_reply in batch:
        reply = pack_reply(step - 1, 1, bytes(16), b"before") if has_reply and step else b""
        state = rng.bytes(state_bytes)
        data = pack_data(step, state, UNREAD, reply, bool(reply), ttl_s, 0.0)
        bases.append(Record(OPENING, data))
        observed = Observations(rows=rng.normal(size=(count, 2)).astype(np.float32))
        requests.append(StepRequest(observed))
    states = rng.integers(0, 256, (len(batch), state_bytes), np.uint8)
    outputs = rng.integers(0, 256, (len(batch), output_bytes), np.uint8)
    together = stepped_alike(
        bases,
        [base.step for base in bases],
        [request.observations.num_observed for request in requests],
        [request.digest for request in requests],
        states,
        outputs,
        now,
    )
    for base, request, state, output, data in zip(
        bases, requests, states, outputs, together, strict=True
    ):
        alone = stepped(base, request, state.tobytes(), NO_TEXT, output.tobytes(), now)
        check_data(data)
        assert unlike(data) == unlike(alone)
        assert revision_of(data) != revision_of(alone)
    assert len({revision_of(data) for data in together}) == len(batch)


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_digests_of_many_rows_are_those_of_a_request_for_each(num_rows, num_values, seed):
    values = np.random.default_rng(seed).normal(size=(num_rows, num_values)).astype(np.float32)
    alone = [StepRequest(Observations(rows=values[at : at + 1])).digest for at in range(num_rows)]
    assert digests_of_rows(values) == alone


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_digests_of_packed_tensors_are_those_of_a_request_for_each(num_rows, num_bytes, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (num_rows, num_bytes), np.uint8)
    emits = rng.choice(["last", "all"], num_rows).tolist()
    alone = [
        StepRequest(Observations(tensors=values[at : at + 1]), emit=emit).digest
        for at, emit in enumerate(emits)
    ]
    assert digests_of_rows(values, emits) == alone


@pytest.mark.parametrize("few", [0, 10**6], ids=["by columns", "one by one"])
@pytest.mark.parametrize("how", ["submit", "submit_many", "step_rows"])
async def test_however_a_batch_of_steps_is_written_it_is_kept_and_answered_alike(
    monkeypatch, few, how
):
    monkeypatch.setattr(tasks, "_FEW", few)
    keys = [Key("t", str(place)) for place in range(20)]
    values = rows(40).reshape(2, 20, 2)
    async with running_engine() as engine:
        seen = [place % 4 for place in range(20)]  # a history, of another length beside each
        for key, count in zip(keys, seen, strict=True):
            await engine.submit(key, create_load(rows(count) if count else None))
        for step in range(2):
            steps = [count + step for count in seen]
            requests = [
                (key, step_rows(row[None], count))
                for key, row, count in zip(keys, values[step], steps, strict=True)
            ]
            if how == "submit":
                replies = await asyncio.gather(*(engine.submit(*each) for each in requests))
                outputs = [reply.outputs for reply in replies]
            elif how == "submit_many":
                outputs = (await engine.submit_many(requests)).outputs
            else:
                outputs = (await engine.step_rows(keys, values[step], steps)).outputs
        model = engine.registry.get("load")
        for place, key in enumerate(keys):
            record = await engine.read(key)
            count = seen[place]
            observed = Observations(rows=np.concatenate([rows(count), values[:, place]]))
            [expected] = await engine.predict(model, [(observed, 0)])
            [reply] = record.kept_replies
            assert (record.step, reply.from_step, reply.num_observed) == (count + 2, count + 1, 1)
            assert reply.digest == step_rows(values[1, place][None]).digest
            assert reply.outputs == outputs[place]
            np.testing.assert_allclose(
                model.runner.outputs.unpack(outputs[place])["mean"],
                model.runner.outputs.unpack(expected)["mean"],
                atol=1e-4,
            )
            retried = await engine.submit(key, step_rows(values[1, place][None], count + 1))
            assert retried.is_replay
            assert retried.outputs == outputs[place]


async def test_a_step_of_rows_is_kept_in_the_same_bytes_whichever_way_it_is_written(monkeypatch):
    kept = []
    for few in (0, 10**6):
        monkeypatch.setattr(tasks, "_FEW", few)
        async with running_engine() as engine:
            await engine.submit(A, create_load())
            await engine.submit(A, step_rows(rows(1), 0))
            kept.append((await engine.read(A)).data)
    by_columns, one_by_one = kept
    assert len(by_columns) == len(one_by_one)
    assert by_columns[36:] == one_by_one[36:]  # behind the revision and the time of the step


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.booleans())
def test_steps_that_are_sent_without_waiting_are_applied_in_order(order, in_thread):
    """Of several sessions, in any mixture: each is where the whole series would be."""

    async def check():
        with pytest.MonkeyPatch.context() as patched:
            if in_thread:
                patched.setattr("service.engine.inference.worker.INLINE_S", 0.0)
            async with running_engine() as engine:
                keys = [Key("t", str(place)) for place in range(6)]
                values = rows(len(order))
                await asyncio.gather(*(engine.submit(key, create_load()) for key in keys))
                taken = [[] for _ in keys]
                asked = []
                for place, session in enumerate(order):
                    step = len(taken[session])
                    taken[session].append(place)
                    asked.append(engine.submit(keys[session], step_rows(values[[place]], step)))
                replies = await asyncio.gather(*asked)
                for session, places in enumerate(taken):
                    if not places:
                        continue
                    steps = [replies[place].step for place in places]
                    assert steps == list(range(1, len(places) + 1))
                    model = engine.registry.get("load")
                    whole = [(Observations(rows=values[places]), 0)]
                    [expected] = await engine.predict(model, whole)
                    got = outputs_of(replies[places[-1]])["mean"]
                    expected = model.runner.outputs.unpack(expected)["mean"]
                    np.testing.assert_allclose(got, expected, atol=1e-4)
                    assert (await engine.read(keys[session])).step == len(places)

    asyncio.run(check())
