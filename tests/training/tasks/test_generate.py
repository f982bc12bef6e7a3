import asyncio

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.contract.bundle import read_bundle
from service.engine.graph.sampler import Sampling
from service.engine.models.registry import load_registry
from service.engine.session.requests import CreateRequest, Observations, StepRequest
from service.stores.record.record import Key
from tests.engine.support import running_engine
from training.config import parse_recipe
from training.errors import DataError, RecipeError
from training.evaluate.baselines.character_ngrams import CharacterNgrams
from training.evaluate.generation import read, write
from training.evaluate.served_model import ServedModel
from training.export.bundle_writer import export_run
from training.fit.run_folder import RunFolder
from training.fit.trainer import FitOptions, fit
from training.fit.truncated import truncated_losses
from training.tasks.generate.task import Passages
from training.tasks.registry import make_task

TASK = {
    "kind": "generate",
    "start": "a",
    "end": "!",
    "held_out_share": 0.1,
    "validation_share": 0.1,
    "sequence_steps": 40,
    "embedding_size": 6,
    "ngram_order": 2,
}
TEXT = "".join("abcabd!"[place % 7] for place in range(2100))
"""After "ab" comes "c" or "d" in turn: two characters do not say which."""


def tiny_recipe(task=None, **fit_fields):
    fields = {
        "name": "tiny-writer",
        "version": "1",
        "title": "Tiny writer",
        "description": "For tests.",
        "seed": 3,
        "data": {"source": "shakespeare"},
        "task": TASK | (task or {}),
        "cell": {"kind": "gru", "hidden_size": 12},
        "fit": {"max_epochs": 20, "batch_size": 8, "learning_rate": 0.02} | fit_fields,
    }
    return parse_recipe(fields, "tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model, fitted with truncated BPTT and exported as the command line does it."""
    folder = tmp_path_factory.mktemp("made")
    data = folder / "text.txt"
    data.write_text(TEXT)
    recipe = tiny_recipe(window_size=20)
    task = make_task(recipe, str(data))
    run = RunFolder.create(folder / "runs", recipe, str(data), "python -m training fit tiny.toml")
    fit(task, run, FitOptions(accelerator="cpu", progress=False))
    _, evaluation = export_run(task, run, folder / "models", lambda _: None)
    return task, folder / "models", evaluation


def test_it_learns_what_bigrams_cannot_tell(made):
    _, _, evaluation = made
    bits = evaluation.figures[0]
    assert bits.metric == "bits_per_character"
    assert bits.value < 0.1
    assert bits.baseline_value > 0.25


def test_its_bits_are_those_of_the_exported_graph_on_the_held_out_tail(made):
    task, models, evaluation = made
    model = ServedModel.from_bundle(read_bundle(models / "tiny-writer" / "1"))
    held_out = task._parts[2]
    shares = read(model, held_out)
    given_shares = shares[np.arange(len(held_out) - 1), held_out[1:]]
    assert evaluation.figures[0].value == pytest.approx(-np.log2(given_shares).mean(), abs=1e-4)
    assert len(held_out) == 210


def test_the_service_writes_what_the_card_shows(made):
    _, models, _ = made
    model = ServedModel.from_bundle(read_bundle(models / "tiny-writer" / "1"))
    registry = load_registry(models, "cpu", 1)

    async def served(temperature, seed):
        async with running_engine(registry=registry) as engine:
            key = Key("t", "a")
            await engine.submit(key, CreateRequest("tiny-writer", None, ttl_s=60))
            asked = Observations(text="", sampling=Sampling(9, temperature, seed))
            reply = await engine.submit(key, StepRequest(asked, 0))
        return reply.outputs[registry.get("tiny-writer").runner.outputs.step_bytes :].decode()

    for temperature, seed in ((0.0, 1), (3.0, 2)):
        assert asyncio.run(served(temperature, seed)) == write(model, 9, temperature, seed)
    assert write(model, 9, 0.0, 1) == "bcabd!"  # it ends behind the end


def test_parts_divide_the_text_in_its_order(made):
    task, _, _ = made
    parts = task._parts
    assert [len(part) for part in parts] == [1680, 210, 210]
    assert "".join(task._codec.decode(token) for part in parts for token in part) == TEXT


def test_a_passage_asks_for_the_character_that_follows():
    tokens = np.arange(101)
    for index in range(10):
        for moves in (False, True):
            got, following = Passages(tokens, 10, moves=moves)[index]
            assert (following == got + 1).all()
            assert len(got) == 10
    whole = [Passages(tokens, 10, moves=False)[index][1] for index in range(10)]
    assert torch.cat(whole).tolist() == list(range(1, 101))


def test_windows_of_one_passage_cost_what_the_whole_of_it_costs(made):
    task, _, _ = made
    network = task.network()
    batch = next(iter(task.validation_batches()))
    with torch.no_grad():
        whole = task.loss(network, batch)
        parts = list(truncated_losses(task.sequence_loss(), network, batch, 8, 8))
    assert torch.stack(parts).mean() == pytest.approx(whole.item(), abs=1e-5)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=40), st.integers(1, 4))
def test_ngram_probabilities_of_all_characters_sum_to_one(tokens, order):
    ngrams = CharacterNgrams(np.array(tokens), order, 5)
    context = tokens[:3]
    total = sum(ngrams.probabilities(np.array([*context, character]))[-1] for character in range(5))
    np.testing.assert_allclose(total, 1, atol=1e-12)


def test_ngrams_are_those_worked_out_by_hand():
    # "aab": a twice, b once. p0(a) = (2 + 2/2) / (3 + 2) = 0.6; after a: a once, b once.
    [[p0, p1]] = CharacterNgrams(np.array([0, 0, 1]), 2, 2).probabilities(np.array([0, 0]))
    assert p0 == pytest.approx(0.6)
    assert p1 == pytest.approx((1 + 2 * 0.6) / (2 + 2))


def test_a_text_outside_the_alphabet_is_refused(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("abcx" * 50)
    task = make_task(tiny_recipe({"characters": "abc!"}), str(file))
    with pytest.raises(DataError, match=r"task.characters: .* found 'x' \(character 3\)"):
        task.train_batches(with_validation=False)


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"start": "\n"}, r"task.start '\\n' holds \['\\n'\], which are not in the characters of"),
        ({"end": "?"}, r"task.end '\?' holds .*set task.end to such"),
        ({"start": "x", "characters": "abcd!"}, "which are not in task.characters"),
    ],
)
def test_a_start_or_end_outside_the_alphabet_is_refused(tmp_path, task, told):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    with pytest.raises(DataError, match=told):
        make_task(tiny_recipe(task), str(file)).sources()


def test_data_that_are_no_single_text_are_refused():
    recipe = tiny_recipe().model_dump(mode="json") | {"data": {"source": "chicago"}}
    with pytest.raises(RecipeError, match="is not one text"):
        make_task(parse_recipe(recipe, "r"), None)
