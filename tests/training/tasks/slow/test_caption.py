"""A vector to a sequence: read as the first input, named letter by letter."""

import numpy as np
import pytest
import torch

from service.contract.bundle import read_bundle
from tests.api.support import serving
from training.config import parse_recipe
from training.data.sets.digits import NAMES
from training.errors import RecipeError
from training.evaluate.captioning import name_each
from training.evaluate.served_model import ServedModel
from training.export.bundle_writer import export_run
from training.fit.run_folder import RunFolder
from training.fit.trainer import FitOptions, fit
from training.tasks.registry import make_task
from training.tasks.stack_network import UNSAID

TASK = {
    "kind": "caption",
    "validation_share": 0.1,
    "embedding_size": 24,
    "reader_size": 48,
    "noise": 0.1,
}


def tiny_recipe(task=None, **fit_fields):
    fields = {
        "name": "tiny-namer",
        "version": "1",
        "title": "Tiny namer",
        "description": "For tests.",
        "seed": 3,
        "data": {"source": "digits"},
        "task": TASK | (task or {}),
        "cell": {"kind": "gru", "hidden_size": 24},
        "fit": {"max_epochs": 6, "batch_size": 32, "learning_rate": 0.01} | fit_fields,
    }
    return parse_recipe(fields, "tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    recipe = tiny_recipe()
    task = make_task(recipe, None)
    run = RunFolder.create(folder / "runs", recipe, None, "python -m training fit tiny.toml")
    fit(task, run, FitOptions(accelerator="cpu", progress=False))
    manifest, evaluation = export_run(task, run, folder / "models", lambda _: None)
    return task, folder / "models", manifest, evaluation


def test_it_learns_the_names_of_images_that_it_never_saw(made):
    task, models, manifest, evaluation = made
    nearest, _, commonest = evaluation.figures
    assert nearest.value > 0.85
    assert commonest.baseline_value < 0.15
    assert manifest.task == "generate"
    model = ServedModel.from_bundle(read_bundle(models / "tiny-namer" / "1"))
    said = np.array(name_each(model, task.data.held_out_vectors))
    right = float((said == np.array(task.data.held_out_names)).mean())
    assert right == pytest.approx(nearest.value, abs=1e-4)


async def test_the_service_spells_the_names_that_the_card_counts(made):
    task, models, _, _ = made
    model = ServedModel.from_bundle(read_bundle(models / "tiny-namer" / "1"))
    images = task.data.held_out_vectors[:20]
    async with serving(models=models) as client:
        instances = [{"observations": [image.tolist()], "temperature": 0} for image in images]
        answer = await client.post("/v1/models/tiny-namer/predict", json={"instances": instances})
        texts = [each["text"] for each in answer.json()["predictions"]]
        assert texts == [f"{name}\n" for name in name_each(model, images)]


def test_a_known_vector_is_read_in_place_of_the_character(made):
    network = made[0].network().eval()
    tokens, x = torch.tensor([[3, 3, 5]]), torch.full((1, 3, 64), float("nan"))
    with torch.no_grad():
        plain = network.features((tokens, x))
        x[0, 1] = 0.5
        seen = network.features((tokens, x))
        other = network.features((torch.tensor([[3, 7, 5]]), x))
    assert torch.equal(seen[:, ::2], plain[:, ::2])
    assert not torch.allclose(seen[:, 1], plain[:, 1])
    assert torch.equal(seen, other)
    torch.testing.assert_close(plain, network.embedding(tokens))


def test_names_stand_behind_their_vectors(made):
    task, _, _, _ = made
    _, tokens, said = next(iter(task.validation_batches()))
    name = task.data.names[task._num_trained]
    assert name in NAMES
    size = len(name) + 1
    decode = task._codec.decode
    assert "".join(decode(t) for t in tokens[0, 1 : size + 1].tolist()) == f"\n{name}"
    assert "".join(decode(t) for t in said[0, 1 : size + 1].tolist()) == f"{name}\n"
    assert said[0, 0] == UNSAID
    assert (said[0, size + 1 :] == UNSAID).all()


def test_held_out_images_are_trained_on_by_nobody(made):
    data = made[0].data
    known = {vector.tobytes() for vector in data.vectors}
    assert sum(vector.tobytes() in known for vector in data.held_out_vectors) == 0
    assert len(data.vectors) + len(data.held_out_vectors) == 1797


def test_an_end_that_is_in_a_name_is_refused():
    with pytest.raises(RecipeError, match="that is in no name"):
        make_task(tiny_recipe({"end": "e"}), None).network()


def test_data_that_are_no_named_vectors_are_refused():
    recipe = tiny_recipe().model_dump(mode="json") | {"data": {"source": "hello"}}
    with pytest.raises(RecipeError, match="does not hold named vectors"):
        make_task(parse_recipe(recipe, "r"), None)


def test_a_file_in_the_form_of_mnist_makes_larger_vectors_of_unknown_licence(tmp_path):
    rng = np.random.default_rng(2)
    images, labels = rng.integers(0, 256, (6, 28, 28)), np.arange(6)
    file = tmp_path / "images.npz"
    np.savez(file, x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2])
    task = make_task(tiny_recipe(), str(file))
    assert task.graph_parts().inputs[1].shape == ("batch", "time", 14 * 14)
    assert sorted(task.data.names) == sorted(NAMES[:6])
    assert task.data.held_out_names == ["zero", "one"]
    mean = images[0, :2, :2].mean() / 255
    assert task.data.held_out_vectors[0, 0] == pytest.approx(mean, abs=1e-6)
    [source] = task.sources()
    assert (source.rows, source.licence) == (8, "not known: a file given with --data")
    assert task.manifest_parts().weights_licence == "not decided"
