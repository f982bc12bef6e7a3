"""Streaming = whole, batched = alone, resumed = uninterrupted: on the engine, end to end."""

import asyncio

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from service.contract.text import TextCodec
from service.engine.graph.batch_planner import BatchLimits
from service.engine.limits import EngineLimits
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.registry import Registry
from service.engine.session.requests import Observations
from service.stores.memory import MemoryStore
from service.stores.record.record import Key
from tests.engine.support import (
    A,
    create_load,
    create_mood,
    outputs_of,
    rows,
    running_engine,
    small_models,
    step_rows,
    step_text,
)
from tests.fakes.bundles import small_tokenizer

SLICED = EngineLimits(batch=BatchLimits(max_rows=4, max_slice_steps=3, max_cells=12))
cuts_of_30 = st.lists(st.integers(1, 29), max_size=8, unique=True).map(sorted)
chunks_of_text = st.lists(
    st.text("ab don't!?  영화최고👍🏽e\u0301", max_size=40)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    min_size=1,
    max_size=5,
)


def assert_close(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert np.all(np.abs(got[name] - value) <= 1e-4 * np.maximum(1, np.abs(value)))


async def whole(engine, model, observations, start_s=None):
    loaded = engine.registry.get(model)
    [packed] = await engine.predict(loaded, [(observations, start_s)])
    return loaded.runner.outputs.unpack(packed)


@given(cuts_of_30, st.booleans())
def test_rows_in_any_chunks_give_the_answer_of_the_whole(cuts, is_sliced):
    async def check():
        async with running_engine(limits=SLICED if is_sliced else None) as engine:
            values = rows(30)
            expected = await whole(engine, "load", Observations(rows=values), 0)
            await engine.submit(A, create_load())
            for start, stop in zip([0, *cuts], [*cuts, 30], strict=True):
                reply = await engine.submit(A, step_rows(values[start:stop], start))
            assert reply.step == 30
            assert_close(outputs_of(reply), expected)

    asyncio.run(check())


@given(chunks_of_text)
def test_text_in_any_chunks_gives_the_answer_of_the_text_so_far(chunks):
    async def check():
        async with running_engine() as engine:
            await engine.submit(A, create_mood())
            so_far = ""
            for count, chunk in enumerate(chunks):
                so_far += chunk
                reply = await engine.submit(A, step_text(chunk, count))
                expected = await whole(engine, "mood", Observations(text=so_far))
                assert_close(outputs_of(reply), expected)
            closing = await engine.submit(A, step_text("", len(chunks), final=True))
            assert_close(outputs_of(closing), expected)

    asyncio.run(check())


@given(st.lists(st.integers(1, 20), min_size=2, max_size=12))
def test_a_session_is_answered_as_if_it_were_alone(lengths):
    async def check():
        async with running_engine(limits=SLICED) as engine:

            async def stream(place, length):
                key = Key("t", str(place))
                values = rows(length, seed=place)
                await engine.submit(key, create_load())
                for step in range(length):
                    reply = await engine.submit(key, step_rows(values[step : step + 1], step))
                return outputs_of(reply)

            together = await asyncio.gather(*(stream(*each) for each in enumerate(lengths)))
            for place, length in enumerate(lengths):
                values = Observations(rows=rows(length, seed=place))
                assert_close(together[place], await whole(engine, "load", values, 0))

    asyncio.run(check())


async def test_emit_all_answers_each_row_as_a_single_step_would():
    async with running_engine(limits=SLICED) as engine:
        values = rows(10)
        await engine.submit(A, create_load())
        every = await engine.submit(A, step_rows(values, 0, emit="all"))
        for count in range(1, 11):
            alone = await whole(engine, "load", Observations(rows=values[:count]), 0)
            assert_close({k: v[count - 1 : count] for k, v in outputs_of(every).items()}, alone)


async def test_history_counts_and_warms_up():
    async with running_engine() as engine:
        values = rows(9)
        opened = await engine.submit(A, create_load(values[:8]))
        assert opened.step == 8
        assert_close(
            outputs_of(opened), await whole(engine, "load", Observations(rows=values[:8]), 0)
        )
        reply = await engine.submit(A, step_rows(values[8:], 8))
        assert_close(outputs_of(reply), await whole(engine, "load", Observations(rows=values), 0))


async def test_the_time_of_a_row_matters_and_is_carried():
    async with running_engine() as engine:
        values = Observations(rows=rows(5))
        monday = await whole(engine, "load", values, 0)
        tuesday = await whole(engine, "load", values, 86_400)
        assert np.abs(monday["mean"] - tuesday["mean"]).max() > 1e-3


async def test_another_replica_goes_on_where_the_first_stopped():
    store, values = MemoryStore(), rows(12)
    async with running_engine(store) as one, running_engine(store) as two:
        await one.submit(A, create_load())
        for step in range(12):
            engine = one if step % 2 else two
            reply = await engine.submit(A, step_rows(values[step : step + 1], step))
        assert_close(outputs_of(reply), await whole(one, "load", Observations(rows=values), 0))


async def test_a_preview_answers_as_the_step_would_and_leaves_no_trace():
    async with running_engine() as engine:
        values = rows(4)
        await engine.submit(A, create_load(values[:3]))
        before = await engine.read(A)
        tried = await engine.submit(A, step_rows(values[3:], 3, is_preview=True))
        assert await engine.read(A) == before
        done = await engine.submit(A, step_rows(values[3:], 3))
        assert_close(outputs_of(tried), outputs_of(done))
        assert tried.step == done.step == 4


async def test_the_last_chunk_counts_to_its_last_word():
    async with running_engine() as engine:
        text = "a wonderful film, don't miss it"
        expected = await whole(engine, "mood", Observations(text=text))
        for place, cut in enumerate((0, 3, len(text) - 1)):
            key = Key("t", str(place))
            await engine.submit(key, create_mood())
            await engine.submit(key, step_text(text[:cut], 0))
            closing = await engine.submit(key, step_text(text[cut:], 1, final=True))
            assert_close(outputs_of(closing), expected)


async def test_a_text_of_which_the_tokenizer_keeps_nothing_still_has_an_answer():
    mood = small_models().get("mood")
    tokenizer = small_tokenizer()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    codec = TextCodec(tokenizer.to_str(), mood.manifest.text.start_token)
    stripping = Registry([LoadedModel(mood.manifest, mood.layout, mood.runner, codec)], {}, "cpu")
    async with running_engine(registry=stripping) as engine:
        await engine.submit(A, create_mood())
        for step, chunk in enumerate(("\u20dd", "a film\u20dd", "")):
            reply = await engine.submit(A, step_text(chunk, step))
            assert outputs_of(reply)["probabilities"].shape == (1, 2)
        closing = await engine.submit(A, step_text("\u20dd", 3, final=True))
        expected = await whole(engine, "mood", Observations(text="\u20dda film\u20dd\u20dd"))
        assert_close(outputs_of(closing), expected)
