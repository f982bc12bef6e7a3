"""What the diagnosis claims, as numbers: what vanishes, what explodes, and what mends it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from training.__main__ import app
from training.cells.rnn import RNNLayer, RNNOptions
from training.diagnose.cases import CASES, find_cases
from training.diagnose.gradient_flow import GradientFlow, gradient_flow
from training.diagnose.watch import WatchPlan, watch
from training.errors import RecipeError

HIDDEN, STEPS = 64, 40
SHORT = WatchPlan(num_steps=20, hidden_size=16, num_updates=30)


def flow_of(name: str) -> GradientFlow:
    torch.manual_seed(3)
    return gradient_flow(CASES[name].make(2, HIDDEN), STEPS)


@pytest.mark.parametrize(("name", "fastest"), [("tanh RNN", 0.8), ("sigmoid RNN", 0.25)])
def test_gradients_of_tanh_and_sigmoid_vanish(name: str, fastest: float) -> None:
    flow = flow_of(name)
    assert flow.factor < fastest
    assert flow.norms[-1] < 1e-4
    assert flow.verdict == "vanishes"


@pytest.mark.parametrize("name", ["ReLU RNN, radius 2", "IRNN × 1.2"])
def test_gradients_of_a_relu_explode_above_its_radius(name: str) -> None:
    flow = flow_of(name)
    assert flow.radius is not None
    assert flow.radius > 1.19
    assert flow.norms[-1] > 200
    assert flow.verdict == "explodes"


@pytest.mark.parametrize(
    ("radius", "verdict"),
    [(1.0, "vanishes"), (1.4, "is kept"), (1.8, "explodes"), (2.5, "explodes")],
)
def test_a_gaussian_relu_explodes_from_about_the_root_of_two_on(
    radius: float, verdict: str
) -> None:
    """Half of its units are off, so a step back multiplies by about radius / √2."""
    torch.manual_seed(3)
    layer = RNNLayer(2, 256, RNNOptions(activation="relu", radius=radius))
    flow = gradient_flow(layer, STEPS)
    assert flow.verdict == verdict
    assert flow.factor == pytest.approx(radius / math.sqrt(2), rel=0.1)


@pytest.mark.parametrize("name", ["IRNN", "LSTM, forget bias 5", "GRU, update bias 5"])
def test_identity_and_open_gates_keep_them(name: str) -> None:
    flow = flow_of(name)
    assert 0.1 < flow.norms[-1] < 100
    assert flow.verdict == "is kept"


@pytest.mark.parametrize("half_open", ["LSTM, forget bias 0", "GRU"])
def test_gates_that_start_half_open_lose_them(half_open: str) -> None:
    assert flow_of(half_open).norms[-1] < 1e-3


def test_training_opens_gates_that_started_half_open_and_mends_no_tanh() -> None:
    """On the adding problem, whose first half must be remembered."""
    plan = WatchPlan(num_steps=20, hidden_size=24, num_updates=200, learning_rate=5e-3)
    verdicts = {
        name: [flow.verdict for flow in watch(CASES[name], plan).flows]
        for name in ("GRU", "tanh RNN")
    }
    assert verdicts == {"GRU": ["vanishes", "is kept"], "tanh RNN": ["vanishes", "vanishes"]}


def test_the_flow_is_the_product_of_jacobians() -> None:
    """For a linear stretch of ReLU, W_hhᵀ is applied once a step: the norm is known exactly."""
    layer = RNNLayer(2, 4, RNNOptions(activation="relu"))
    w_ih, w_hh, b_ih, b_hh = layer.weights()
    with torch.no_grad():
        w_ih.zero_()
        w_hh.copy_(0.5 * torch.eye(4))
        b_ih.fill_(1.0)
        b_hh.zero_()
    flow = gradient_flow(layer, 10)
    np.testing.assert_allclose(flow.norms, 0.5 ** np.arange(10), rtol=1e-5)
    assert flow.factor == pytest.approx(0.5)
    assert flow.radius == pytest.approx(0.5)


def test_clipping_bounds_a_gradient_that_explodes_and_saves_the_training() -> None:
    exploding = CASES["ReLU RNN, radius 2"]
    plain = {"num_updates": 60, "learning_rate": 0.01, "is_plain": True}
    raw = watch(exploding, WatchPlan(clip=None, **plain))
    clipped = watch(exploding, WatchPlan(clip=1.0, **plain))
    assert raw.has_diverged
    assert raw.clipped_norms == raw.norms
    assert not clipped.has_diverged
    assert len(clipped.losses) == 60
    assert max(clipped.norms) > 1000
    assert max(clipped.clipped_norms) <= 1.0
    assert np.median(clipped.losses[-10:]) < np.median(clipped.losses[:10])


def test_a_training_is_written_down_from_its_start_to_its_end() -> None:
    watched = watch(CASES["tanh RNN"], SHORT)
    assert len(watched.losses) == len(watched.norms) == 30
    assert [update for update, _ in watched.radii] == [0, 10, 20, 30]
    assert watched.radii[0][1] != watched.radii[-1][1]
    assert len(watched.flows) == len(watched.activations) == 2
    assert math.isfinite(watched.losses[-1])
    assert not watch(CASES["GRU"], SHORT).radii


def test_any_kind_of_cell_can_be_diagnosed_and_others_are_refused() -> None:
    assert [case.kind for case in find_cases(["min_gru", "IRNN"])] == ["min_gru", "irnn"]
    assert len(find_cases([])) == len(CASES)
    with pytest.raises(RecipeError, match=r"no case 'transformer'; expected one of tanh RNN; "):
        find_cases(["transformer"])


@pytest.mark.parametrize("kind", ["attention", "slstm", "clockwork", "rg_lru"])
def test_flows_of_cells_with_more_than_h_are_finite(kind: str) -> None:
    torch.manual_seed(4)
    flow = gradient_flow(find_cases([kind])[0].make(2, 8), 12)
    assert np.isfinite(flow.norms).all()
    assert flow.norms[0] == pytest.approx(1)


def test_a_cell_that_hands_no_gradient_back_vanishes() -> None:
    flow = gradient_flow(find_cases(["markov"])[0].make(2, 8), 12)
    np.testing.assert_array_equal(flow.norms, np.zeros(12))
    assert flow.verdict == "vanishes"
    assert flow.factor == 0


def test_a_diagnosis_of_no_gradient_at_all_is_drawn(tmp_path: Path) -> None:
    arguments = ["diagnose", "--cell", "markov", "--steps", "5", "--updates", "2"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "vanishes" in result.output
    assert (tmp_path / "flow-start.png").exists()


def test_the_command_writes_a_page_with_its_pictures(tmp_path: Path) -> None:
    arguments = ["diagnose", "--cell", "tanh RNN", "--cell", "lstm", "--steps", "12"]
    arguments += ["--updates", "12", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "index.html").read_text()
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {
        "flow-start.png",
        "flow-end.png",
        "clipping.png",
        "radius.png",
        "activations.png",
    }
    assert all(f'src="{name}"' in page for name in pictures)
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert set(numbers["cases"]) == {"tanh RNN", "lstm"}
    for case in numbers["cases"].values():
        assert f'<td class="n">{case["at_start"]["one_step_back"]:.3f}</td>' in page
    assert numbers["clipping"]["diverges_without"]
    assert not numbers["clipping"]["diverges_with"]
    assert numbers["clipping"]["largest_norm_before"] > 1000
    assert numbers["clipping"]["largest_norm_after"] == 1
    assert "python -m training diagnose --steps 12 --updates 12 --cell &#x27;tanh RNN&#x27;" in page
