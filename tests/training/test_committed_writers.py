"""What the committed models that write are for."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from service.contract.bundle import read_bundle
from service.contract.sampling import probabilities
from service.engine.registry import load_registry
from service.engine.requests import CreateRequest, Observations, StepRequest
from service.stores.record import Key
from tests.engine.support import running_engine
from training.config import load_recipe, parse_recipe
from training.evaluate.served_model import ServedModel
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


@pytest.mark.parametrize("name", WRITERS)
def test_it_beats_ngrams_and_was_made_by_its_recipe(name):
    manifest = bundle_of(name).manifest
    bits = next(figure for figure in manifest.quality if figure.metric == "bits_per_character")
    assert bits.value < 0.95 * bits.baseline_value
    recipe = load_recipe(ROOT / "training" / "recipes" / f"{name}.toml")
    assert parse_recipe(manifest.training.recipe, name) == recipe
    assert sum(np.array([len(data) for data in bundle_of(name).files.values()])) < 4 * 2**20
