"""An encoder and a decoder with attention: one graph, one stream, the same arithmetic both ways."""

import datetime as dt

import numpy as np
import pytest
import torch

from service.contract.bundle import read_bundle
from tests.api.support import listening
from tests.api.test_generate import EVENTS, events_of
from training.config import parse_recipe
from training.data.sets.dates import make_dates
from training.data.text_pairs import Pair
from training.errors import DataError, RecipeError
from training.evaluate.served_model import ServedModel
from training.evaluate.translation import translate
from training.export.bundle_writer import export_run
from training.fit.run_folder import RunFolder
from training.fit.trainer import FitOptions, fit
from training.tasks.registry import make_task
from training.tasks.stack_network import UNSAID
from training.tasks.translate.network import Marks, TranslateNetwork

MARK, END = 1, 0
M, H, V = 6, 5, 9
TASK = {"kind": "translate", "embedding_size": 12, "memory_steps": 5}


def tiny_recipe(task=None, cell=None, **fit_fields):
    fields = {
        "name": "tiny-translator",
        "version": "1",
        "title": "Tiny translator",
        "description": "For tests.",
        "seed": 3,
        "data": {"source": "dates"},
        "task": TASK | (task or {}),
        "cell": {"kind": "gru", "hidden_size": 24} | (cell or {}),
        "fit": {"max_epochs": 12, "batch_size": 16, "learning_rate": 0.02} | fit_fields,
    }
    return parse_recipe(fields, "tiny")


def reversed_words(num_pairs=700):
    """Words of two to five letters, to be written backwards."""
    rng = np.random.default_rng(5)
    words = ("".join(rng.choice([*"abc"], rng.integers(2, 6))) for _ in range(num_pairs))
    return [Pair(word, word[::-1]) for word in dict.fromkeys(words)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Fitted and exported as the command line does it, on a file of pairs."""
    folder = tmp_path_factory.mktemp("made")
    data = folder / "pairs.tsv"
    data.write_text("".join(f"{pair.source}\t{pair.target}\n" for pair in reversed_words()))
    recipe = tiny_recipe()
    task = make_task(recipe, str(data))
    run = RunFolder.create(folder / "runs", recipe, str(data), "python -m training fit tiny.toml")
    fit(task, run, FitOptions(accelerator="cpu", progress=False))
    manifest, evaluation = export_run(task, run, folder / "models", lambda _: None)
    return task, folder / "models", manifest, evaluation


@pytest.fixture
def network():
    torch.manual_seed(2)
    return TranslateNetwork(V, Marks(MARK, END), 4, H, M, dropout=0.3).eval()


def run(network, tokens, state=None):
    tokens = torch.tensor([tokens])
    state = network.initial_state()[None] if state is None else state
    with torch.no_grad():
        return network(tokens, torch.tensor([tokens.shape[1]]), state)


def test_a_taught_decoder_says_what_the_stream_says(network):
    sources, targets = [[3, 4, 5, 2, 8, 7], [6, 2]], [[2, 3, 4], [5, 5, 8]]
    padded = torch.tensor([sources[0], sources[1] + [0] * 4])
    read = torch.tensor([[MARK, *target] for target in targets])
    with torch.no_grad():
        taught = network.teach(padded, torch.tensor([6, 2]), read)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        logits, _ = run(network, [*source, MARK, *target])
        torch.testing.assert_close(taught[row], logits[0, len(source) :], atol=1e-5, rtol=1e-4)


def test_behind_an_end_everything_is_as_at_the_start(network):
    text = [3, 4, MARK, 5, 5]
    first, state = run(network, [*text, END])
    assert not state.any()
    again, _ = run(network, [*text, END], state)
    assert torch.equal(first, again)
    in_one, _ = run(network, [*text, END, *text, END])
    torch.testing.assert_close(in_one[:, 6:], first)


def test_the_memory_is_that_of_the_last_steps_of_the_encoder(network):
    """A long text through the ring, against attention over the encoder's last M outputs."""
    rng = np.random.default_rng(4)
    for num_steps in (M - 1, M, M + 1, 2 * M, 3 * M + 2, 7 * M + 5):
        source = rng.integers(2, V, num_steps).tolist()
        logits, _ = run(network, [*source, MARK])
        layer = network.layer
        with torch.no_grad():
            outputs, last = layer.encoder(network.embedding(torch.tensor([source])))
            memory = outputs[:, -M:]
            mark = layer.decoder_input(network.embedding(torch.tensor([MARK])))
            context = layer.context(last[0], memory, torch.ones(1, memory.shape[1]) > 0)
            h = layer.decode(mark, context, last[0])
            expected = network.head(torch.cat([h, context], dim=1))
        torch.testing.assert_close(logits[:, -1], expected, atol=1e-5, rtol=1e-4)


def test_without_attention_the_context_is_nothing():
    torch.manual_seed(2)
    plain = TranslateNetwork(V, Marks(MARK, END), 4, H, M, dropout=0.0, attends=False).eval()
    with torch.no_grad():
        memory, known = torch.randn(1, M, H), torch.ones(1, M) > 0
        assert not plain.layer.context(torch.randn(1, H), memory, known).any()


def test_it_learns_to_write_backwards_words_that_it_never_saw(made):
    task, models, manifest, evaluation = made
    [figure] = evaluation.figures
    assert manifest.task == "generate"
    assert figure.value > 0.5
    assert manifest.training.data[0].licence == "not known: a file given with --data"
    assert manifest.training.weights_licence == "not decided"
    model = ServedModel.from_bundle(read_bundle(models / "tiny-translator" / "1"))
    pairs = task.parts[2]
    right = [t == p.target for t, p in zip(translate(model, pairs, "="), pairs, strict=True)]
    assert np.mean(right) == pytest.approx(figure.value, abs=1e-4)
    trained = {pair.target for part in task.parts[:2] for pair in part}
    assert not trained & {pair.target for pair in pairs}


async def test_the_service_writes_what_the_card_counts_text_after_text(made):
    """Read in chunks and written by events, over one session that is not opened anew."""
    task, models, _, _ = made
    model = ServedModel.from_bundle(read_bundle(models / "tiny-translator" / "1"))
    pairs = task.parts[2][:4]
    expected = translate(model, pairs, "=")
    async with listening(models=models) as client:
        body = {"model": "tiny-translator", "session": "s"}
        assert (await client.post("/v1/sessions", json=body)).status_code == 201
        step, said = 0, []
        for pair in pairs:
            for chunk in (pair.source[:2], pair.source[2:]):
                body = {"step": step, "text": chunk}
                step = (await client.post("/v1/sessions/s/steps", json=body)).json()["step"]
            body = {"step": step, "text": "=", "temperature": 0, "max_tokens": 12}
            answer = await client.post("/v1/sessions/s/generate", json=body, headers=EVENTS)
            *letters, (last, done) = events_of(answer)
            assert last == "done"
            said.append("".join(data["text"] for _, data in letters))
            step = done["step"]
        assert said == [f"{text}\n" for text in expected]


def test_labels_and_inputs_stand_as_the_decoder_needs_them(made):
    task, _, _, _ = made
    source, length, read, said = next(iter(task.validation_batches()))
    text = {token: task._codec.decode(token) for token in range(5)}
    pair = task.parts[1][0]
    assert "".join(text[t] for t in source[0, : length[0]].tolist()) == pair.source
    size = len(pair.target) + 1
    assert "".join(text[t] for t in read[0, :size].tolist()) == f"={pair.target}"
    assert "".join(text[t] for t in said[0, :size].tolist()) == f"{pair.target}\n"
    assert (said[0, size:] == UNSAID).all()


def test_dates_are_written_in_all_the_ways_that_the_card_names():
    pairs = make_dates(6000)
    assert pairs == make_dates(6000)
    of = {(pair.target, pair.kind.split(",")[0].strip()): pair.source for pair in pairs}
    assert len({pair.kind for pair in pairs}) == 12
    for (target, _), source in of.items():
        assert dt.date.fromisoformat(target).isoformat() == target
        assert len(source) <= 72
    weekday = next(p for p in pairs if p.source.split(",")[0].endswith("day"))
    date = dt.date.fromisoformat(weekday.target)
    assert weekday.source.startswith(date.strftime("%A, %B").lower())


@pytest.mark.parametrize(
    ("date", "words"),
    [
        ((2019, 3, 3), "the third of march twenty nineteen"),
        ((2000, 1, 30), "the thirtieth of january two thousand"),
        ((2007, 5, 21), "the twenty-first of may two thousand and seven"),
        ((1900, 6, 12), "the twelfth of june nineteen hundred"),
        ((1905, 7, 1), "the first of july nineteen oh five"),
        ((2099, 12, 31), "the thirty-first of december twenty ninety-nine"),
    ],
)
def test_years_and_days_are_spelled_as_people_do(date, words):
    from training.data.sets.dates import _FORMS

    assert _FORMS["the third of march 2019"](dt.date(*date), True) == words


@pytest.mark.parametrize(
    ("task", "cell", "told"),
    [
        ({"mark": "a"}, {}, "which hold \\['a'\\]"),
        ({"end": "="}, {}, "expected two characters"),
        ({"memory_steps": 4}, {}, "the longest text that is read has 5"),
        ({}, {"kind": "lstm"}, "expected kind 'gru' and one layer, got 'lstm'"),
        ({}, {"num_layers": 2}, "expected kind 'gru' and one layer"),
        ({}, {"dropout": 0.1}, "without cell.dropout, .* got 0.1"),
        ({}, {"residual": True}, "without .*cell.residual"),
        ({}, {"options": {"update_bias": 1.0}}, "without .*cell.options.*update_bias"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(tmp_path, task, cell, told):
    data = tmp_path / "pairs.tsv"
    data.write_text("".join(f"{p.source}\t{p.target}\n" for p in reversed_words(200)))
    with pytest.raises(RecipeError, match=told):
        make_task(tiny_recipe(task, cell), str(data)).train_batches(with_validation=False)


@pytest.mark.parametrize("text", ["abc", "abc\t", "\tabc", ""])
def test_files_that_hold_no_pairs_are_refused_by_line(tmp_path, text):
    data = tmp_path / "pairs.tsv"
    data.write_text(f"a\tb\n{text}\n" if text else "")
    with pytest.raises(DataError, match="line 2: not a pair" if text else "no pairs"):
        make_task(tiny_recipe(), str(data)).sources()


def test_data_that_are_no_pairs_are_refused():
    recipe = tiny_recipe().model_dump(mode="json") | {"data": {"source": "hello"}}
    with pytest.raises(RecipeError, match="does not hold pairs of texts"):
        make_task(parse_recipe(recipe, "r"), None)
