"""Every cell, trained for a few steps, exported to a bundle and served over HTTP."""

import asyncio
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx
import pytest
import torch

from service.contract.bundle import read_bundle, write_bundle
from tests.api.support import listening
from tests.training.cells.equations import CASES
from tests.training.cells.tiny_task import NUM_COLUMNS, tiny_task
from training.evaluate.served_model import ServedModel
from training.export.bundle_writer import draft_bundle
from training.export.verify import check_long, check_parity
from training.fit.run_folder import RunFolder
from training.fit.trainer import FitOptions, fit

NATIVE = {"gru": "GRU", "lstm": "LSTM", "rnn": "RNN", "irnn": "RNN"}
WITHOUT_LOOP = {"ar", "markov", "ring_attention"}
DEEP = {
    "deep gru": ("gru", {}, {"num_layers": 3, "residual": True}),
    "deep min_gru": ("min_gru", {}, {"num_layers": 2, "residual": True}),
}
CELLS = {name: (kind, options, {}) for name, (kind, options, _) in CASES.items()} | DEEP
every_cell = pytest.mark.parametrize("case", CELLS)


@cache
def trained(case):
    """The trained network, its task, and its bundle's folder of models."""
    kind, options, cell = CELLS[case]
    task = tiny_task(kind, options, case.replace(" ", "-"), **cell)
    folder = Path(mkdtemp(prefix="carry-cells-"))
    run = RunFolder.create(folder / "runs", task.recipe, None, "")
    fit(task, run, FitOptions(accelerator="cpu", progress=False))
    network = task.network()
    network.load_state_dict(run.load_weights())
    draft = draft_bundle(task, network.eval(), run)
    models = folder / "models"
    write_bundle(models / task.recipe.name / "1", draft.manifest, dict(draft.files))
    return task, network, models


def bundle_of(case):
    task, _, models = trained(case)
    return read_bundle(models / task.recipe.name / "1")


@every_cell
def test_onnx_runtime_answers_as_torch_does(case):
    task, network, _ = trained(case)
    inputs = task.example_inputs(5, 12)
    length = np.array([12, 0, 1, 7, 3])
    check_parity(ServedModel.from_bundle(bundle_of(case)), network, inputs, length)


@every_cell
def test_its_stream_does_not_drift(case):
    task, _, _ = trained(case)
    check_long(ServedModel.from_bundle(bundle_of(case)), task.example_inputs(1, 300))


@every_cell
def test_the_graph_holds_one_operator_for_each_recurrence(case):
    kind, _, cell = CELLS[case]
    bundle = bundle_of(case)
    model = onnx.load_from_string(bundle.graph)
    operators = [node.op_type for node in model.graph.node]
    expected = NATIVE.get(kind, "Scan")
    num_layers = 0 if kind in WITHOUT_LOOP else cell.get("num_layers", 1)
    assert operators.count(expected) == num_layers
    assert not {"Loop", "If"} & set(operators)
    for word in (b".py", b"site-packages", b"fx_node"):
        assert word not in bundle.graph


@every_cell
async def test_streamed_over_http_it_answers_as_torch_does_over_the_whole_sequence(case):
    """Over a socket: three sessions at once, a row at a time, in pieces, and in one request."""
    task, network, models = trained(case)
    x = task.example_inputs(3, 13)["x"]
    assert x.shape[2] == NUM_COLUMNS
    with torch.no_grad():
        start = network.initial_state().expand(3, -1)
        whole = network(torch.from_numpy(x), torch.full((3,), 13), start)[0][:, :, 0]

    async def stream(client, row, cuts):
        session = {"session": f"row-{row}-in-{len(cuts) + 1}", "start": "2016-08-22"}
        opened = await client.post("/v1/sessions", json={"model": task.recipe.name} | session)
        assert opened.status_code == 201, opened.text
        means = []
        for rows in np.split(x[row], cuts):
            body = {"step": len(means), "observations": rows.tolist(), "emit": "all"}
            answer = await client.post(f"/v1/sessions/{session['session']}/steps", json=body)
            assert answer.status_code == 200, answer.text
            means += [prediction["mean"][0] for prediction in answer.json()["predictions"]]
        return means

    async with listening(models=models) as client:
        for cuts in (range(1, 13), (1, 6), ()):
            streams = (stream(client, row, cuts) for row in range(3))
            np.testing.assert_allclose(await asyncio.gather(*streams), whole, atol=1e-5)
