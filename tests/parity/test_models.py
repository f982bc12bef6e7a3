"""Every bundle in models/: however a stream is cut and whoever its neighbours are, the answer is
that of one bare call of the graph over the whole sequence."""

import asyncio
import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.graph.batch_planner import BatchLimits
from service.engine.limits import EngineLimits
from service.engine.models.registry import Registry, load_registry
from service.engine.session.requests import CreateRequest, Observations, StepRequest
from service.stores.record.record import Key
from tests.engine.support import running_engine

MODELS = Path(__file__).parents[2] / "models"
NAMES = sorted(path.parent.parent.name for path in MODELS.glob("*/*/manifest.json"))
START_S = 1_471_824_000  # 2016-08-22, a Monday
SMALL_BATCHES = EngineLimits(batch=BatchLimits(max_rows=3, max_slice_steps=7, max_cells=21))

seeds = st.integers(0, 2**32 - 1)
texts = st.text(
    "good bad film 영화 최고다 재미없다ㅋㅋ!?.,'’\n👍🏽👨‍👩‍👧e\u0301\u1100\u1161", max_size=150
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@cache
def committed() -> Registry:
    registry = load_registry(MODELS, "cpu", 1)
    assert not registry.refused
    return registry


def of_task(*tasks):
    return pytest.mark.parametrize(
        "name", [name for name in NAMES if committed().get(name).manifest.task in tasks]
    )


WRITERS = [name for name in NAMES if committed().get(name).manifest.task == "generate"]


def of_vectors(name):
    return committed().get(name).reads_vectors


def test_models_of_each_kind_are_there():
    expected = {"transit-ridership", "sentiment-en", "hello", "day-kinds", "dates", "digit-names"}
    assert expected <= set(NAMES)


TOLERANCE = {"hello": 2e-2}
"""Three tanh units with large weights multiply a rounding difference at many steps of characters in
a random order: of 13,000 such rows, 0.1 % differed by more than 1e-4, by 1.4e-3 at the most."""


def assert_close(model, got, expected):
    for name, value in expected.items():
        error = np.abs(got[name] - value) / np.maximum(1, np.abs(value))
        assert float(error.max()) <= TOLERANCE.get(model.name, 1e-4), name


def random_rows(model, num_rows, seed):
    """Values of the size of real ones, a fifth of them missing."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(4.0, 4.0, (num_rows, model.num_values)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    return values


def feeds_of_rows(model, rows, length=None):
    """Inputs `[B, T, …]` of a bare call, from `[B, T, F]`."""
    num_rows, num_steps, _ = rows.shape
    graph = model.manifest.graph
    feeds = {graph.input_with("x").name: rows}
    if (time := graph.input_with("time")) is not None:
        times = START_S + model.manifest.forecast.frequency_s * np.arange(num_steps)
        feeds[time.name] = np.tile(times, (num_rows, 1)).astype(time.dtype)
    return with_states(model, feeds, length if length is not None else [num_steps] * num_rows)


def feeds_of_tokens(model, tokens, length, x=None):
    """`x` are the vectors of a model that writes about them: none where left out."""
    feeds = {model.tokens.name: tokens}
    if model.reads_vectors:
        nothing = np.full((*tokens.shape, model.num_values), np.nan, np.float32)
        feeds[model.x.name] = nothing if x is None else x
    return with_states(model, feeds, length)


def random_vectors(model, shape, seed):
    """`[*shape, F]`: a vector at a fifth of the steps, at the others none."""
    rng = np.random.default_rng(seed)
    vectors = rng.random((*shape, model.num_values)).astype(np.float32)
    vectors[rng.random(shape) < 0.8] = np.nan
    return vectors


def with_states(model, feeds, length):
    spec = model.manifest.graph.input_with("length")
    feeds |= model.layout.gather([model.layout.initial_row] * len(length))
    return feeds | {spec.name: np.asarray(length, spec.dtype)}


def outputs_at_end(model, answers, row, length):
    return {o.name: answers[o.name][row, length - 1 : length] for o in model.manifest.graph.outputs}


def whole_rows(model, rows):
    answers = model.runner.call(feeds_of_rows(model, rows[None]))
    return outputs_at_end(model, answers, 0, len(rows))


def whole_text(model, text):
    tokens = np.array([model.codec.encode(text)])
    answers = model.runner.call(feeds_of_tokens(model, tokens, [tokens.shape[1]]))
    return outputs_at_end(model, answers, 0, tokens.shape[1])


def whole_text_about(model, vector, text):
    tokens = np.array([[0, *model.codec.encode(text)]])
    x = np.full((*tokens.shape, model.num_values), np.nan, np.float32)
    x[0, 0] = vector
    answers = model.runner.call(feeds_of_tokens(model, tokens, [tokens.shape[1]], x))
    return outputs_at_end(model, answers, 0, tokens.shape[1])


async def stream(engine, name, place, chunks):
    """Feed `chunks` (rows, texts, or observations) to a session of its own; the last outputs."""
    key = Key("t", f"{name}-{place}")
    await engine.submit(key, CreateRequest(name, None, ttl_s=60, start_s=START_S))
    step = 0
    for chunk in chunks:
        observed = chunk
        if not isinstance(chunk, Observations):
            is_text = isinstance(chunk, str)
            observed = Observations(text=chunk) if is_text else Observations(rows=chunk)
        reply = await engine.submit(key, StepRequest(observed, step))
        step = reply.step
    outputs = committed().get(name).runner.outputs.unpack(reply.outputs)
    return {output: values[-1:] for output, values in outputs.items()}  # a tagger answers all


def cut(sequence, seed):
    """Cut anywhere, into pieces of at least one element (one empty piece for an empty text)."""
    rng = np.random.default_rng(seed)
    size = len(sequence)
    if size < 2:
        return [sequence]
    places = rng.choice(np.arange(1, size), rng.integers(0, min(size, 12)), replace=False)
    bounds = [0, *sorted(places.tolist()), size]
    return [sequence[a:b] for a, b in itertools.pairwise(bounds)]


@of_task("forecast", "tag")
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6), seed=seeds)
def test_rows_cut_anywhere_among_neighbours_give_the_whole_answer(name, lengths, seed):
    model = committed().get(name)
    series = [random_rows(model, length, seed + place) for place, length in enumerate(lengths)]

    async def check():
        async with running_engine(registry=committed(), limits=SMALL_BATCHES) as engine:
            streams = [
                stream(engine, name, place, cut(rows, seed + place))
                for place, rows in enumerate(series)
            ]
            for rows, outputs in zip(series, await asyncio.gather(*streams), strict=True):
                assert_close(model, outputs, whole_rows(model, rows))

    asyncio.run(check())


@pytest.mark.parametrize("name", [name for name in WRITERS if not of_vectors(name)])
@given(data=st.data(), seed=seeds)
def test_characters_cut_anywhere_among_neighbours_give_the_whole_answer(name, data, seed):
    model = committed().get(name)
    read = st.text(model.codec.spec.characters, min_size=1, max_size=120)
    texts_read = data.draw(st.lists(read, min_size=1, max_size=5))

    async def check():
        async with running_engine(registry=committed(), limits=SMALL_BATCHES) as engine:
            streams = [
                stream(engine, name, place, cut(text, seed + place))
                for place, text in enumerate(texts_read)
            ]
            for text, outputs in zip(texts_read, await asyncio.gather(*streams), strict=True):
                assert_close(model, outputs, whole_text(model, text))

    asyncio.run(check())


@pytest.mark.parametrize("name", [name for name in WRITERS if of_vectors(name)])
@given(data=st.data(), seed=seeds)
def test_texts_about_vectors_cut_anywhere_give_the_whole_answer(name, data, seed):
    """The vector alone, or with the first of the text; and another one before it, which is lost."""
    model = committed().get(name)
    read = st.text(model.codec.spec.characters, min_size=1, max_size=40)
    texts_read = data.draw(st.lists(read, min_size=1, max_size=5))
    vectors = np.random.default_rng(seed).random((2, len(texts_read), model.num_values))
    before, vectors = vectors.astype(np.float32)

    def chunks(place, text):
        starts_alone, begins_again = np.random.default_rng(seed + place).random(2) < 0.5
        first, *others = ["", *cut(text, seed)] if starts_alone else cut(text, seed)
        about = Observations(rows=vectors[place, None], text=first)
        lost = Observations(rows=before[place, None], text=text)
        return [lost, about, *others] if begins_again else [about, *others]

    async def check():
        async with running_engine(registry=committed(), limits=SMALL_BATCHES) as engine:
            streams = [
                stream(engine, name, place, chunks(place, text))
                for place, text in enumerate(texts_read)
            ]
            for place, outputs in enumerate(await asyncio.gather(*streams)):
                expected = whole_text_about(model, vectors[place], texts_read[place])
                assert_close(model, outputs, expected)

    asyncio.run(check())


@of_task("classify")
@given(read=st.lists(texts, min_size=1, max_size=5), seed=seeds)
def test_text_cut_anywhere_among_neighbours_gives_the_whole_answer(name, read, seed):
    model = committed().get(name)

    async def check():
        async with running_engine(registry=committed(), limits=SMALL_BATCHES) as engine:
            streams = [
                stream(engine, name, place, cut(text, seed + place))
                for place, text in enumerate(read)
            ]
            for text, outputs in zip(read, await asyncio.gather(*streams), strict=True):
                assert_close(model, outputs, whole_text(model, text))

    asyncio.run(check())


@pytest.mark.parametrize("name", NAMES)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=8), seed=seeds)
def test_ragged_rows_of_one_call_are_answered_as_if_alone(name, lengths, seed):
    """Rows of length 0 included: they keep their state to the last bit."""
    model = committed().get(name)
    rng = np.random.default_rng(seed)
    num_steps = max(*lengths, 1)
    if model.tokens is None:
        rows = np.stack([random_rows(model, num_steps, seed + i) for i in range(len(lengths))])
        feeds, alone = (
            feeds_of_rows(model, rows, lengths),
            lambda i, n: whole_rows(model, rows[i, :n]),
        )
    else:
        text, generate = model.manifest.text, model.manifest.generate
        size = text.vocabulary_size if text else len(generate.characters)
        tokens = rng.integers(0, size, (len(lengths), num_steps))
        x = random_vectors(model, tokens.shape, seed) if model.reads_vectors else None

        def alone(row, length):
            part = (slice(row, row + 1), slice(length))
            one = feeds_of_tokens(model, tokens[part], [length], None if x is None else x[part])
            answers = model.runner.call(one)
            return outputs_at_end(model, answers, 0, length)

        feeds = feeds_of_tokens(model, tokens, lengths, x)
    answers = model.runner.call(feeds)
    states = model.layout.scatter(answers)
    for row, length in enumerate(lengths):
        if length == 0:
            assert states[row] == model.layout.initial_row
        else:
            assert_close(model, outputs_at_end(model, answers, row, length), alone(row, length))


@of_task("forecast", "tag")
def test_ten_thousand_single_steps_stay_with_the_whole_sequence(name):
    model = committed().get(name)
    rows = random_rows(model, 10_000, seed=7)
    state, expected = model.layout.initial_row, whole_rows(model, rows)
    feeds = feeds_of_rows(model, rows[None])
    spec = model.manifest.graph.input_with("length")
    moving = {k: v for k, v in feeds.items() if v.ndim > 1 and v.shape[1] == len(rows)}
    for step in range(len(rows)):
        one = {k: v[:, step : step + 1] for k, v in moving.items()}
        one |= model.layout.gather([state]) | {spec.name: np.ones(1, spec.dtype)}
        answers = model.runner.call(one)
        [state] = model.layout.scatter(answers)
    assert_close(model, outputs_at_end(model, answers, 0, 1), expected)


@of_task("classify")
def test_a_text_of_ten_thousand_words_stays_with_the_whole_sequence(name):
    words = ["정말", "재미있는", "영화", "a", "really", "good", "film", ",", "👍", "최고다", "!"]
    rng = np.random.default_rng(3)
    text = " ".join(rng.choice(words, 10_000))
    model = committed().get(name)

    async def check():
        async with running_engine(registry=committed()) as engine:
            chunks = [text[start : start + 97] for start in range(0, len(text), 97)]
            assert_close(model, await stream(engine, name, 0, chunks), whole_text(model, text))

    asyncio.run(check())
