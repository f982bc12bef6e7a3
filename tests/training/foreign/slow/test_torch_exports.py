"""Recurrent layers as torch writes them: both exporters, two files, its own names, float16."""

import logging
import warnings

import pytest
import torch
from torch import nn

from service.contract.bundle import read_bundle
from tests.training.foreign.importing import imported_or_refused

BATCH, STEPS, LAYERS = 3, 5, 2


class Tagger(nn.Module):
    """x `[batch, time, 3]` and the states of two layers → two scores for each step, new states."""

    def __init__(self, op, *, is_batch_first, hidden, num_ways=1):
        super().__init__()
        self.layers = getattr(nn, op)(
            3, hidden, LAYERS, batch_first=is_batch_first, bidirectional=num_ways == 2
        )
        self.scores = nn.Linear(hidden * num_ways, 2)

    def forward(self, x, *states):
        answers, after = self.layers(x, states if len(states) > 1 else states[0])
        return self.scores(answers), *(after if isinstance(after, tuple) else (after,))


def exported(
    folder, op, *, is_dynamo, is_half=False, is_named=True, is_free=True, is_batch_first=True,
    hidden=16, **options,
):  # fmt: skip
    """The path of a graph that torch wrote."""
    path = folder / "graph.onnx"
    network = Tagger(op, is_batch_first=is_batch_first, hidden=hidden).eval()
    kind = torch.float16 if is_half else torch.float32
    shape = (BATCH, STEPS, 3) if is_batch_first else (STEPS, BATCH, 3)
    num_states = 2 if op == "LSTM" else 1
    inputs = [torch.randn(shape, dtype=kind)]
    # Each a tensor of its own: torch takes one that is given twice for one input.
    inputs += [torch.zeros(LAYERS, BATCH, hidden, dtype=kind) for _ in range(num_states)]
    rows, steps = (0, 1) if is_batch_first else (1, 0)
    names = {}
    if is_named:
        names["input_names"] = ["x", "h", "c"][: 1 + num_states]
        names["output_names"] = ["y", "hn", "cn"][: 1 + num_states]
    if is_dynamo and is_free:
        batch = torch.export.Dim("batch")
        states = tuple({1: batch} for _ in range(num_states))
        options["dynamic_shapes"] = ({rows: batch, steps: torch.export.Dim("time")}, states)
    elif is_free and is_named:
        moving = {name: {rows: "batch", steps: "time"} for name in ("x", "y")}
        names["dynamic_axes"] = moving | {
            name: {1: "batch"}
            for name in ("h", "c", "hn", "cn")
            if name in names["input_names"] + names["output_names"]
        }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch warns of its own exporters
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            network.to(kind), tuple(inputs), path, dynamo=is_dynamo, verbose=False, **names,
            **options,
        )  # fmt: skip
    return path


@pytest.mark.parametrize("is_batch_first", [True, False])
@pytest.mark.parametrize("is_free", [True, False])
@pytest.mark.parametrize("is_dynamo", [True, False])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_a_named_export_is_imported_as_it_is(op, is_dynamo, is_free, is_batch_first, tmp_path):
    path = exported(
        tmp_path, op, is_dynamo=is_dynamo, is_free=is_free, is_batch_first=is_batch_first
    )
    assert imported_or_refused(path, models=tmp_path / "models") == ""
    spec = read_bundle(tmp_path / "models" / "graph" / "1").manifest.graph
    assert [state.output for state in spec.states] == ["hn", "cn"][: 2 if op == "LSTM" else 1]
    assert spec.takes_rows == is_free


@pytest.mark.parametrize("is_external", [True, False])
def test_the_default_export_in_two_files_is_one_bundle(is_external, tmp_path, monkeypatch):
    path = exported(tmp_path, "LSTM", is_dynamo=True, hidden=64, external_data=is_external)
    assert (tmp_path / "graph.onnx.data").exists() == is_external
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert imported_or_refused(path, models=tmp_path / "models") == ""


@pytest.mark.parametrize("is_dynamo", [True, False])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_torchs_own_names_are_paired_by_the_nodes_or_asked_about(op, is_dynamo, tmp_path):
    path = exported(tmp_path, op, is_dynamo=is_dynamo, is_named=False)
    told = imported_or_refused(path, models=tmp_path / "models")
    if told:  # torch takes an RNN apart, so no node tells
        assert (op, is_dynamo) == ("RNN", True)
        assert "--state states_0=stack" in told
        option = ["--state", "states_0=stack"]
        assert imported_or_refused(path, *option, models=tmp_path / "models") == ""


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("is_dynamo", [True, False])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_float16_is_imported_or_refused_with_float32_as_the_remedy(
    op, is_dynamo, is_named, tmp_path
):
    path = exported(tmp_path, op, is_dynamo=is_dynamo, is_half=True, is_named=is_named, hidden=64)
    told = imported_or_refused(path, models=tmp_path / "models")
    assert (
        told == "" or "export it in float32" in told or "--state" in told or "--tolerance" in told
    )


@pytest.mark.parametrize("is_dynamo", [True, False])
def test_a_bidirectional_export_is_refused_with_the_option_that_serves_it(is_dynamo, tmp_path):
    network = Tagger("GRU", is_batch_first=True, hidden=8, num_ways=2).eval()
    path = tmp_path / "graph.onnx"
    inputs = (torch.randn(BATCH, STEPS, 3), torch.zeros(2 * LAYERS, BATCH, 8))
    free = {"dynamic_axes": {"x": {0: "batch", 1: "time"}, "h": {1: "batch"}}}
    if is_dynamo:
        batch = torch.export.Dim("batch")
        free = {"dynamic_shapes": ({0: batch, 1: torch.export.Dim("time")}, ({1: batch},))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            network, inputs, path, dynamo=is_dynamo, verbose=False,
            input_names=["x", "h"], output_names=["y", "hn"], **free,
        )  # fmt: skip
    told = imported_or_refused(path, models=tmp_path / "models")
    assert "reads the steps backwards too" in told
    assert imported_or_refused(path, "--size", "time=4", models=tmp_path / "models") == ""
