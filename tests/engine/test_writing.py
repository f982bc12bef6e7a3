"""Models that write: what is written is a function of state, step, seed and temperature, committed
once, and equal to sampling by hand with one bare call of the graph for each character."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.sampling import Draws, choose
from service.contract.text import UNREAD
from service.engine.graph.batch_planner import BatchLimits
from service.engine.graph.sampler import Sampling
from service.engine.limits import EngineLimits
from service.engine.models.registry import load_registry
from service.engine.session.requests import CreateRequest, Observations, StepRequest
from service.errors import (
    DigestMismatchError,
    InvalidInputError,
    ModelFailedError,
    StepConflictError,
)
from service.stores.record.record import Key
from tests.engine.support import A, ScriptedStore, outputs_of, running_engine, small_models
from tests.fakes.bundles import CHARACTERS, write_generator

VERSE = small_models().get("verse")
SIZE = VERSE.runner.outputs.step_bytes
MANY = Sampling(40, 1.0, seed=5)


def create(**fields):
    return CreateRequest("verse", None, **{"ttl_s": 60} | fields)


def write(sampling, step=None, text="", **fields):
    return StepRequest(Observations(text=text, sampling=sampling), step, **fields)


def read(text, step=None):
    return StepRequest(Observations(text=text), step)


def written(reply):
    return reply.outputs[SIZE:].decode()


def last_of(reply):
    return VERSE.runner.outputs.unpack(reply.outputs[:SIZE])["logits"][0]


def call(tokens, row):
    feeds = {"tokens": np.array([tokens]), "length": np.array([len(tokens)])}
    answers = VERSE.runner.call(feeds | VERSE.layout.gather([row]))
    return answers["logits"][0, -1], VERSE.layout.scatter(answers)[0]


def tokens_of(text):
    return [CHARACTERS.index(each) for each in text]


def choose_of_seed_5_alone(logits, temperature, draws):
    """As `choose`; to anybody else the graph seems to have left the numbers."""
    is_meant = draws._generator.bit_generator.state["state"]["key"][0] == 5
    return choose(logits if is_meant else np.full_like(logits, np.nan), temperature, draws)


def by_hand(prompt, sampling, step=0):
    """The text and the logits behind it, without engine, worker or writer."""
    draws, text = Draws(sampling.seed, step), ""
    fed = VERSE.codec.feed(UNREAD, prompt)
    logits, row = call(fed.certain + fed.tail, VERSE.layout.initial_row)
    while len(text) < sampling.max_tokens and not text.endswith("."):
        token = choose(logits, sampling.temperature, draws)
        text += CHARACTERS[token]
        logits, row = call([token], row)
    return text, logits


async def test_it_writes_what_sampling_by_hand_writes():
    async with running_engine() as engine:
        await engine.submit(A, create())
        reply = await engine.submit(A, write(MANY, 0, "ab"))
    text, logits = by_hand("ab", MANY)
    assert written(reply) == text
    assert reply.step == 1
    np.testing.assert_allclose(last_of(reply), logits, atol=1e-5)


async def test_what_was_written_is_as_if_it_had_been_read():
    async with running_engine() as engine:
        await engine.submit(A, create())
        text = written(await engine.submit(A, write(MANY, 0, "ab")))
        after = await engine.submit(A, read("c", 1))
        other = Key("t", "other")
        await engine.submit(other, create())
        whole = await engine.submit(other, read("ab" + text + "c", 0))
    np.testing.assert_allclose(last_of(after), last_of(whole), atol=1e-5)


@given(
    prompts=st.lists(st.text(CHARACTERS, max_size=9), min_size=1, max_size=5),
    seed=st.integers(0, 2**53 - 1),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_writers_among_neighbours_write_as_if_alone(prompts, seed, temperature):
    limits = EngineLimits(batch=BatchLimits(max_rows=3, max_slice_steps=4, max_cells=12))
    sampling = Sampling(12, temperature, seed)

    async def stream(engine, place):
        key = Key("t", f"verse-{place}")
        await engine.submit(key, create())
        return written(await engine.submit(key, write(sampling, 0, prompts[place])))

    async def check():
        async with running_engine(limits=limits) as engine:
            return await asyncio.gather(*(stream(engine, n) for n in range(len(prompts))))

    assert asyncio.run(check()) == [by_hand(prompt, sampling)[0] for prompt in prompts]


async def test_a_retry_gets_the_same_text_and_nothing_is_written_twice():
    async with running_engine() as engine:
        await engine.submit(A, create())
        first = await engine.submit(A, write(MANY, 0))
        again = await engine.submit(A, write(MANY, 0))
        assert (again.outputs, again.is_replay, again.step) == (first.outputs, True, 1)
        assert (await engine.read(A)).step == 1
        with pytest.raises(DigestMismatchError):
            await engine.submit(A, write(MANY._replace(seed=6), 0))
        with pytest.raises(StepConflictError):
            await engine.submit(A, write(MANY, 7))


async def test_the_same_seed_writes_something_else_at_another_step():
    hot = Sampling(30, 5.0, seed=1)
    async with running_engine() as engine:
        await engine.submit(A, create())
        first = written(await engine.submit(A, write(hot, 0, "ab", is_preview=True)))
        await engine.submit(A, read("ab", 0))
        assert written(await engine.submit(A, write(hot, 1, is_preview=True))) != first
        assert (await engine.read(A)).step == 1


async def test_after_a_lost_race_it_writes_from_the_state_that_won_and_says_so():
    class TokenStream(list):
        def began(self):
            self.append("began")

        def wrote(self, text):
            self.append(text)

    async def rival(store):
        async with running_engine(store=store) as other:
            await other.submit(A, read("cc"))

    store, heard = ScriptedStore(), TokenStream()
    async with running_engine(store=store) as engine:
        await engine.submit(A, create())
        store.before_commit = rival
        reply = await engine.submit(A, write(Sampling(3, 1.0, 2, heard)))
    last = "".join(heard[len(heard) - heard[::-1].index("began") :])
    assert heard.count("began") == 2
    assert reply.step == 2
    assert written(reply) == last == by_hand("cc", Sampling(3, 1.0, 2), step=1)[0]


async def test_work_that_ends_early_leaves_nothing_counted_behind():
    async with running_engine() as engine:
        await engine.submit(A, create())
        text = written(await engine.submit(A, write(Sampling(2000, 1.0, 3), 0)))
        assert text.endswith(".")
        assert len(text) < 2000
        worker = engine.workers.of(VERSE)
        assert (worker._backlog.num_steps, worker._backlog.num_counted) == (0, 0)


async def test_what_was_written_is_kept_among_the_observations():
    from service.stores.record.history import HistoryPolicy

    async with running_engine() as engine:
        await engine.submit(A, create(keeps=HistoryPolicy(0, 1, 5)))
        text = written(await engine.submit(A, write(MANY, 0, "ab")))
        assert (await engine.read(A)).history.observations == (b"tab" + text.encode(),)


async def test_a_model_that_does_not_write_is_not_made_to():
    async with running_engine() as engine:
        await engine.submit(A, CreateRequest("mood", None, ttl_s=60))
        with pytest.raises(InvalidInputError, match="does not write"):
            await engine.submit(A, write(MANY, 0))
        with pytest.raises(InvalidInputError, match="characters that this model knows"):
            await engine.predict(VERSE, [(Observations(text="x"), None)])


async def test_a_tagger_answers_every_row_of_a_request():
    rows = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    async with running_engine() as engine:
        await engine.submit(A, CreateRequest("phase", None, ttl_s=60))
        first = await engine.submit(A, StepRequest(Observations(rows=rows[:2]), 0, "all"))
        second = await engine.submit(A, StepRequest(Observations(rows=rows[2:]), 2, "all"))
        [whole] = await engine.predict(small_models().get("phase"), [(Observations(rows), None)])
    whole = small_models().get("phase").runner.outputs.unpack(whole)["probabilities"]
    streamed = [outputs_of(reply)["probabilities"] for reply in (first, second)]
    np.testing.assert_allclose(np.concatenate(streamed), whole, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logits", [[1.0, np.nan], [1.0, np.inf], [-np.inf, -np.inf]])
def test_where_the_graph_left_the_numbers_nothing_is_chosen(logits, temperature):
    with pytest.raises(FloatingPointError):
        choose(np.array(logits, np.float32), temperature, Draws(1, 0))
    assert choose(np.array([-np.inf, 1.0], np.float32), temperature, Draws(1, 0)) == 1


async def test_one_whose_logits_are_no_numbers_fails_alone(monkeypatch):
    neighbour = Key("t", "neighbour")
    monkeypatch.setattr("service.engine.graph.sampler.choose", choose_of_seed_5_alone)
    async with running_engine() as engine:
        for key in (A, neighbour):
            await engine.submit(key, create())
        asked = [
            engine.submit(A, write(MANY._replace(seed=6), 0)),
            engine.submit(neighbour, write(MANY, 0)),
        ]
        failed, fine = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(failed, ModelFailedError)
        assert "nothing was applied" in failed.detail
        assert written(fine) == by_hand("", MANY)[0]
        assert engine.workers.of(VERSE)._backlog.num_steps == 0
        assert (await engine.submit(A, write(MANY, 0))).outputs == fine.outputs


async def test_a_start_of_several_characters_is_not_kept_where_no_text_came(tmp_path):
    write_generator(tmp_path, start="cab")
    async with running_engine(registry=load_registry(tmp_path, "cpu", 1)) as engine:
        whole, cut = Key("t", "whole"), Key("t", "cut")
        for key in (whole, cut):
            await engine.submit(key, create())
        nothing = await engine.submit(cut, read("", 0))
        last = [await engine.submit(whole, read("bc", 0)), await engine.submit(cut, read("bc", 1))]
    np.testing.assert_allclose(
        last_of(nothing), call(tokens_of("cab"), VERSE.layout.initial_row)[0], atol=1e-5
    )
    np.testing.assert_allclose(last_of(last[1]), last_of(last[0]), atol=1e-5)
