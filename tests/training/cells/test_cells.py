"""What the kinds promise beside their equations: starts, options, operators, stacking."""

import numpy as np
import onnx
import pytest
import torch

from tests.training.cells.slow.test_served_cells import bundle_of
from training.cells.base import RecurrentStack, cell_kinds, find_layer
from training.cells.gru import GRULayer, GRUOptions, onnx_gru
from training.cells.irnn import IRNNLayer
from training.cells.lstm import LSTMLayer, LSTMOptions, onnx_lstm
from training.cells.rnn import RNNLayer, RNNOptions, onnx_rnn, spectral_radius
from training.config import CellConfig
from training.errors import RecipeError

INPUTS, HIDDEN = 3, 4


def test_lstm_remembers_by_default() -> None:
    forget = slice(HIDDEN, 2 * HIDDEN)
    assert (LSTMLayer(INPUTS, HIDDEN).lstm.bias_ih_l0[forget] == 1).all()
    longer = LSTMLayer(INPUTS, HIDDEN, LSTMOptions(forget_bias=4))
    assert (longer.lstm.bias_ih_l0[forget] == 4).all()


def test_a_gru_remembers_longer_with_a_higher_update_bias() -> None:
    torch.manual_seed(9)
    plain = GRULayer(INPUTS, HIDDEN).gru.bias_ih_l0
    torch.manual_seed(9)
    biased = GRULayer(INPUTS, HIDDEN, GRUOptions(update_bias=5)).gru.bias_ih_l0
    expected = torch.tensor([0.0, 5.0, 0.0]).repeat_interleave(HIDDEN)
    torch.testing.assert_close(biased - plain, expected)
    state = torch.randn(2, HIDDEN)
    layer = GRULayer(INPUTS, HIDDEN, GRUOptions(update_bias=50))
    torch.testing.assert_close(layer(torch.randn(2, 9, INPUTS), None, state)[1], state)


def test_irnn_starts_by_copying_its_state() -> None:
    """Le et al.: W_hh = I, biases 0, W_ih ~ N(0, 0.001)."""
    torch.manual_seed(1)
    layer = IRNNLayer(50, 100)
    w_ih, w_hh, b_ih, b_hh = layer.weights()
    assert torch.equal(w_hh, torch.eye(100))
    assert not b_ih.any()
    assert not b_hh.any()
    assert w_ih.std().item() == pytest.approx(0.001, rel=0.1)
    state = torch.rand(2, 100)
    _, kept = layer(torch.zeros(2, 400, 50), None, state)
    torch.testing.assert_close(kept, state)


@pytest.mark.parametrize("radius", [0.5, 1.5])
def test_rnn_starts_with_the_spectral_radius_it_is_told(radius: float) -> None:
    torch.manual_seed(2)
    w_hh = RNNLayer(INPUTS, 30, RNNOptions(radius=radius)).weights()[1].detach().numpy()
    assert np.abs(np.linalg.eigvals(w_hh)).max() == pytest.approx(radius, rel=1e-4)
    assert spectral_radius(torch.tensor([[0.0, -2.0], [2.0, 0.0]])) == pytest.approx(2)


def test_operators_read_as_the_fused_kernels_compute() -> None:
    torch.manual_seed(3)
    x, length = torch.randn(3, 6, INPUTS), torch.tensor([6, 2, 4])
    gru, lstm, rnn = (
        GRULayer(INPUTS, HIDDEN),
        LSTMLayer(INPUTS, HIDDEN),
        RNNLayer(INPUTS, HIDDEN, RNNOptions(activation="relu")),
    )
    for layer in (gru, lstm, rnn):
        layer.prepare_export()
    h0 = torch.randn(3, HIDDEN)
    state0 = torch.randn(3, 2 * HIDDEN)

    y, h = onnx_gru(x, length, h0, gru.onnx_w, gru.onnx_r, gru.onnx_b)
    expected_y, expected_h = gru(x, length, h0)
    torch.testing.assert_close(h, expected_h)
    torch.testing.assert_close(y, expected_y)

    y, h = onnx_rnn(x, length, h0, rnn.onnx_w, rnn.onnx_r, rnn.onnx_b, "relu")
    expected_y, expected_h = rnn(x, length, h0)
    torch.testing.assert_close(h, expected_h)
    torch.testing.assert_close(y, expected_y)

    h0, c0 = state0.chunk(2, dim=1)
    y, h, c = onnx_lstm(x, length, h0, c0, lstm.onnx_w, lstm.onnx_r, lstm.onnx_b)
    expected_y, expected_state = lstm(x, length, state0)
    torch.testing.assert_close(torch.cat([h, c], dim=1), expected_state)
    torch.testing.assert_close(y, expected_y)


@pytest.mark.parametrize("is_residual", [False, True])
@pytest.mark.parametrize("kind", ["gru", "lstm", "slstm", "min_gru"])
def test_three_layers_step_by_step_equal_the_sequence(kind: str, is_residual: bool) -> None:
    torch.manual_seed(4)
    config = CellConfig(kind=kind, hidden_size=HIDDEN, num_layers=3, residual=is_residual)
    stack = RecurrentStack(config, INPUTS).eval()
    x = torch.randn(2, 7, INPUTS)
    whole, whole_state = stack(x, None, None)
    state = stack.initial_state().expand(2, -1)
    for t in range(7):
        y, state = stack(x[:, t : t + 1], torch.ones(2, dtype=torch.int64), state)
        torch.testing.assert_close(y[:, 0], whole[:, t])
    torch.testing.assert_close(state, whole_state)


def test_residual_layers_add_to_what_is_below_them() -> None:
    torch.manual_seed(5)
    config = CellConfig(kind="gru", hidden_size=HIDDEN, num_layers=2, residual=True)
    stack = RecurrentStack(config, INPUTS).eval()
    x = torch.randn(2, 5, INPUTS)
    below, _ = stack.layers[0](x, None, torch.zeros(2, HIDDEN))
    above, _ = stack.layers[1](below, None, torch.zeros(2, HIDDEN))
    torch.testing.assert_close(stack(x, None, None)[0], below + above)


def test_dropout_falls_between_layers_and_only_in_training() -> None:
    torch.manual_seed(6)
    config = CellConfig(kind="gru", hidden_size=64, num_layers=2, dropout=0.5)
    stack = RecurrentStack(config, INPUTS)
    seen: list[torch.Tensor] = []
    for layer in stack.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 5, INPUTS)
    stack(x, None, None)
    assert torch.equal(seen[0], x)
    assert 0.35 < (seen[1] == 0).float().mean().item() < 0.65
    stack.eval()(x, None, None)
    assert not (seen[3] == 0).any()


def test_weights_are_reordered_before_export_not_in_the_graph() -> None:
    graph = onnx.load_from_string(bundle_of("gru").graph).graph
    [gru] = [node for node in graph.node if node.op_type == "GRU"]
    weights = set(gru.input[1:4])
    assert len(weights) == 3
    assert weights <= {initializer.name for initializer in graph.initializer}


def test_an_unknown_cell_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'elman'.*gru, irnn, .*lstm"):
        find_layer("elman")
    assert "stepped" not in cell_kinds()


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("gru", {"forget_bias": 1}, r"\[cell.options\] of 'gru': forget_bias: Extra inputs"),
        ("ar", {"lags": 0}, r"lags: .*greater than or equal to 1"),
        ("rnn", {"activation": "gelu"}, r"activation: .*'tanh', 'sigmoid' or 'relu'"),
        ("clockwork", {"num_modules": 3}, r"hidden_size 4 cannot be split into 3 modules"),
        ("attention", {"num_heads": 3}, r"hidden_size 4 cannot be split among 3 heads"),
    ],
)
def test_options_of_another_cell_or_out_of_range_are_refused(kind, options, says) -> None:
    config = CellConfig(kind=kind, hidden_size=HIDDEN, options=options)
    with pytest.raises(RecipeError, match=says):
        RecurrentStack(config, INPUTS)
