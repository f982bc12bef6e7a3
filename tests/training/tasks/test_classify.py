import numpy as np
import onnx
import pytest
import torch

from service.contract.bundle import read_bundle
from service.contract.golden import check_golden
from service.contract.text import TextCursor
from tests.training.text_models import TINY_TASK, tiny_network, tiny_recipe
from training.config import parse_recipe
from training.data.labelled_texts import LabelledTexts, divide
from training.errors import RecipeError
from training.evaluate.classification import Scores, ask
from training.evaluate.served_model import ServedModel
from training.export.bundle_writer import export_run
from training.fit.run_folder import RunFolder
from training.fit.trainer import FitOptions, fit
from training.tasks.classify.calibration import fit_calibration
from training.tasks.registry import make_task


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny classifier, fitted and exported as the command line does it."""
    folder = tmp_path_factory.mktemp("made")
    few = folder / "few.csv"
    lines = ["product,review,score"]
    for n in range(300):
        # Every tenth label is wrong, so that no answer can be certain.
        is_great = (n % 2 == 0) != (n % 10 == 3)
        review = f"{'not' if n % 2 else 'so'} good, day {n}"
        lines.append(f'p{n},"{review}",{"great" if is_great else "other"}')
    few.write_text("\n".join(lines) + "\n")
    recipe = tiny_recipe(max_epochs=6)
    task = make_task(recipe, str(few))
    run = RunFolder.create(folder / "runs", recipe, str(few), "python -m training fit tiny.toml")
    fit(task, run, FitOptions(accelerator="cpu", progress=False))
    _, evaluation = export_run(task, run, folder / "models", lambda _: None)
    return task, read_bundle(folder / "models" / recipe.name / recipe.version), evaluation


def test_a_fitted_bundle_is_read_back_and_gives_its_golden_run(made):
    _, bundle, _ = made
    model = ServedModel.from_bundle(bundle)
    check_golden(bundle, model.run)
    assert bundle.manifest.labels == ("other", "great")
    assert {"CARD.md", "prefixes.png", "confusion.png", "calibration.png"} <= set(bundle.files)


def test_it_learns_what_a_word_before_another_means(made):
    _, _, evaluation = made
    accuracy = next(f for f in evaluation.figures if f.metric == "accuracy")
    assert accuracy.value > 0.8
    assert accuracy.baseline_value > 0.8


def test_text_fed_in_chunks_is_answered_like_the_whole_text(made):
    _, bundle, _ = made
    model = ServedModel.from_bundle(bundle)
    assert model.codec is not None
    text = "not good, not a good day at all, so bad"
    answers = ask(model, LabelledTexts([text], np.array([0])))
    cursor, rows = TextCursor(), [model.layout.initial_row]
    for chunk in ("not go", "od, not a", " good day at", " all, so bad"):
        fed = model.codec.feed(cursor, chunk)
        cursor = fed.cursor
        if fed.certain:
            tokens = np.array([fed.certain])
            _, rows = model.step({"tokens": tokens}, np.array([tokens.shape[1]]), rows)
    last, _ = model.step({"tokens": np.array([fed.tail])}, np.array([len(fed.tail)]), rows)
    np.testing.assert_allclose(last["probabilities"][0, -1], answers.whole[0], atol=1e-5)


def test_an_early_answer_is_that_of_a_text_which_ends_there(made):
    _, bundle, _ = made
    model = ServedModel.from_bundle(bundle)
    early, whole = (
        ask(model, LabelledTexts([text], np.array([0])))
        for text in ("so good, day 3, not good", "so good,")
    )
    assert len(model.codec.encode("so good,")) == 4
    np.testing.assert_allclose(early.prefixes[4], whole.whole, atol=1e-5)


def test_tables_are_stored_in_half_precision(made):
    _, bundle, _ = made
    graph = onnx.load_from_string(bundle.graph).graph
    large = [i for i in graph.initializer if np.prod(i.dims) >= TINY_TASK["ngram_buckets"]]
    assert large
    assert {i.data_type for i in large} == {onnx.TensorProto.FLOAT16}


def test_held_out_texts_shape_neither_tokenizer_nor_weights(made):
    task, _, _ = made
    parts = divide(task._texts, TINY_TASK["held_out_share"], TINY_TASK["validation_share"])
    seen = task.train_batches(with_validation=False).dataset
    assert len(seen) == len(parts["training"])
    assert len(task.validation_batches().dataset) == len(parts["validation"])


def test_a_classifier_is_not_refitted_on_what_calibrates_it():
    with pytest.raises(RecipeError, match="refit_on_validation"):
        make_task(tiny_recipe(refit_on_validation=True), None)


def test_data_without_texts_are_refused():
    recipe = tiny_recipe().model_dump(mode="json") | {"data": {"source": "chicago"}}
    with pytest.raises(RecipeError, match="no texts"):
        make_task(parse_recipe(recipe, "r"), None)


def test_calibration_takes_back_too_much_confidence():
    network = tiny_network()
    with torch.no_grad():
        network.head[-1].weight.mul_(200)
    tokens = torch.randint(3, 400, (400, 10), generator=torch.Generator().manual_seed(1))
    length = torch.full((400,), 10)
    label = torch.randint(0, 2, (400,), generator=torch.Generator().manual_seed(2))
    fit_calibration(network, [(tokens, length, label)])
    with torch.no_grad():
        answers, _ = network(tokens, length, network.initial_state().expand(400, -1))
    assert answers[:, -1].max(dim=1).values.mean() < 0.6


def test_scores_of_known_answers():
    truth = np.array([0, 0, 1, 1])
    answers = np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.3, 0.7]])
    scores = Scores.of(truth, answers)
    assert scores.accuracy == 0.75
    assert scores.log_loss == pytest.approx(-np.log([0.9, 0.2, 0.8, 0.7]).mean())
    assert scores.f1 == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_equal_confidences_are_judged_together_whatever_their_order():
    answers = np.tile([0.6, 0.4], (1000, 1))
    truth = np.sort(np.arange(1000) % 5 < 2).astype(int)
    assert Scores.of(truth, answers).calibration_error == pytest.approx(0, abs=1e-12)


def test_confidence_that_comes_true_has_no_calibration_error():
    answers = np.tile([0.25, 0.75], (1500, 1))
    truth = np.tile([1, 1, 1, 0], 375)
    assert Scores.of(truth, answers).calibration_error == pytest.approx(0, abs=1e-12)
    assert Scores.of(1 - truth, answers).calibration_error == pytest.approx(0.5)
