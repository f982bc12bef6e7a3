"""What the committed models that write are for."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from service.contract.bundle import read_bundle
from service.contract.sampling import probabilities
from service.engine.graph.sampler import Sampling
from service.engine.models.registry import load_registry
from service.engine.session.requests import CreateRequest, Observations, StepRequest
from service.stores.record.record import Key
from tests.engine.support import running_engine
from training.config import load_recipe, parse_recipe
from training.evaluate.captioning import name_each
from training.evaluate.served_model import ServedModel
from training.evaluate.translation import translate
from training.tasks.registry import make_task

ROOT = Path(__file__).parents[2]
WRITERS = sorted(
    path.parents[1].name
    for path in (ROOT / "models").glob("*/*/manifest.json")
    if '"task": "generate"' in path.read_text(encoding="utf-8")
)


def bundle_of(name):
    return read_bundle(ROOT / "models" / name / "1")


def test_after_hell_comes_o_a_character_at_a_time():
    """As in the first lecture: h → e, e → l, l → l, and l → o, which needs the past."""
    registry = load_registry(ROOT / "models", "cpu", 1)
    model = registry.get("hello")

    async def stream():
        said = []
        async with running_engine(registry=registry) as engine:
            key = Key("t", "word")
            await engine.submit(key, CreateRequest("hello", None, ttl_s=60))
            for step, character in enumerate("hell"):
                asked = StepRequest(Observations(text=character), step)
                outputs = model.runner.outputs.unpack((await engine.submit(key, asked)).outputs)
                shares = probabilities(outputs["logits"][0])
                assert shares.max() > 0.9
                said.append(model.codec.decode(int(shares.argmax())))
        return "".join(said)

    assert asyncio.run(stream()) == "ello"


def test_hello_reads_one_hot_vectors_of_four_characters_with_three_tanh_units():
    manifest = bundle_of("hello").manifest
    assert manifest.generate.characters == "helo"
    assert manifest.training.recipe["cell"]["kind"] == "rnn"
    assert manifest.graph.states[0].shape == ("batch", 3)
    assert "embedding_size" not in manifest.training.recipe["task"]  # one-hot


def test_hello_is_measured_again_as_its_card_says():
    bundle = bundle_of("hello")
    task = make_task(parse_recipe(bundle.manifest.training.recipe, "hello"), None)
    found = task.evaluate(ServedModel.from_bundle(bundle)).figures
    for got, written in zip(found, bundle.manifest.quality, strict=True):
        assert got.value == pytest.approx(written.value, abs=1e-3)


@pytest.mark.parametrize("name", ["hello", "shakespeare"])
def test_it_beats_ngrams(name):
    quality = bundle_of(name).manifest.quality
    bits = next(figure for figure in quality if figure.metric == "bits_per_character")
    assert bits.value < 0.95 * bits.baseline_value


def test_dates_are_written_in_iso_over_one_session():
    """Spelled in pieces, written, and the next one behind it."""
    registry = load_registry(ROOT / "models", "cpu", 1)
    size = registry.get("dates").runner.outputs.step_bytes
    spelled = {
        "2019-03-03": ["the third of mar", "ch 2019="],
        "1984-12-21": ["december 21st, ninet", "een eighty-four", "="],
        "2031-07-08": ["8 july twenty thirty-one="],
    }

    async def stream():
        said, step = [], 0
        async with running_engine(registry=registry) as engine:
            key = Key("t", "dates")
            await engine.submit(key, CreateRequest("dates", None, ttl_s=60))
            for chunks in spelled.values():
                for chunk in chunks:
                    await engine.submit(key, StepRequest(Observations(text=chunk), step))
                    step += 1
                asked = Observations(text="", sampling=Sampling(20, 0.0))
                reply = await engine.submit(key, StepRequest(asked, step))
                step = reply.step
                said.append(reply.outputs[size:].decode())
        return said

    assert asyncio.run(stream()) == [f"{date}\n" for date in spelled]


def test_digits_are_spelled_as_their_card_counts_them():
    bundle = bundle_of("digit-names")
    task = make_task(parse_recipe(bundle.manifest.training.recipe, "digit-names"), None)
    said = name_each(ServedModel.from_bundle(bundle), task.data.held_out_vectors)
    right = np.mean(np.array(said) == np.array(task.data.held_out_names))
    assert bundle.manifest.quality[0].value == pytest.approx(right, abs=1e-4)
    regression = next(each for each in bundle.manifest.quality if "regression" in each.baseline)
    assert regression.value > regression.baseline_value


def test_dates_are_written_as_their_card_counts_them_and_better_than_without_attention():
    bundle = bundle_of("dates")
    task = make_task(parse_recipe(bundle.manifest.training.recipe, "dates"), None)
    pairs = task.parts[2][:400]
    said = translate(ServedModel.from_bundle(bundle), pairs, "=")
    right = np.mean([text == pair.target for text, pair in zip(said, pairs, strict=True)])
    [figure] = bundle.manifest.quality
    assert right == pytest.approx(figure.value, abs=0.02)
    assert figure.value > figure.baseline_value


@pytest.mark.parametrize("name", WRITERS)
def test_it_was_made_by_its_recipe(name):
    manifest = bundle_of(name).manifest
    recipe = load_recipe(ROOT / "training" / "recipes" / f"{name}.toml")
    assert parse_recipe(manifest.training.recipe, name) == recipe
    assert sum(np.array([len(data) for data in bundle_of(name).files.values()])) < 4 * 2**20
