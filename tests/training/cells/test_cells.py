"""Every cell: its gates as in the papers, steps equal to sequences, and a faithful export."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from training.cells.base import RecurrentStack, cell_kinds, find_layer
from training.cells.gru import GRULayer, onnx_gru
from training.cells.lstm import LSTMLayer, onnx_lstm
from training.config import CellConfig
from training.errors import RecipeError

INPUTS, HIDDEN = 3, 4


def sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def weights_of(module: nn.Module) -> list[np.ndarray]:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return [getattr(module, name).detach().double().numpy() for name in names]


def test_gru_step_is_the_gate_equations() -> None:
    torch.manual_seed(1)
    layer = GRULayer(INPUTS, HIDDEN)
    x, h = torch.randn(2, INPUTS), torch.randn(2, HIDDEN)
    w, r, w_bias, r_bias = weights_of(layer.gru)
    from_x = x.double().numpy() @ w.T + w_bias
    from_h = h.double().numpy() @ r.T + r_bias
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = (
        np.split(part, 3, axis=1) for part in (from_x, from_h)
    )
    reset, update = sigmoid(reset_x + reset_h), sigmoid(update_x + update_h)
    expected = (1 - update) * np.tanh(new_x + reset * new_h) + update * h.double().numpy()

    y, state = layer(x[:, None], None, h)

    np.testing.assert_allclose(state.detach().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(y[:, 0].detach().numpy(), expected, atol=1e-6)


def test_lstm_step_is_the_gate_equations() -> None:
    torch.manual_seed(2)
    layer = LSTMLayer(INPUTS, HIDDEN)
    x, state = torch.randn(2, INPUTS), torch.randn(2, 2 * HIDDEN)
    h, c = np.split(state.double().numpy(), 2, axis=1)
    w, r, w_bias, r_bias = weights_of(layer.lstm)
    gates = x.double().numpy() @ w.T + w_bias + h @ r.T + r_bias
    write, forget, candidate, show = np.split(gates, 4, axis=1)
    new_c = sigmoid(forget) * c + sigmoid(write) * np.tanh(candidate)
    new_h = sigmoid(show) * np.tanh(new_c)

    _, new_state = layer(x[:, None], None, state)

    np.testing.assert_allclose(
        new_state.detach().numpy(), np.concatenate([new_h, new_c], axis=1), atol=1e-6
    )


def test_lstm_remembers_by_default() -> None:
    bias = LSTMLayer(INPUTS, HIDDEN).lstm.bias_ih_l0
    assert (bias[HIDDEN : 2 * HIDDEN] == 1).all()


def test_operators_read_as_the_fused_kernels_compute() -> None:
    torch.manual_seed(3)
    x, length = torch.randn(3, 6, INPUTS), torch.tensor([6, 2, 4])
    gru, lstm = GRULayer(INPUTS, HIDDEN), LSTMLayer(INPUTS, HIDDEN)
    for layer in (gru, lstm):
        layer.prepare_export()
    h0 = torch.randn(3, HIDDEN)
    state0 = torch.randn(3, 2 * HIDDEN)

    y, h = onnx_gru(x, length, h0, gru.onnx_w, gru.onnx_r, gru.onnx_b)
    expected_y, expected_h = gru(x, length, h0)
    torch.testing.assert_close(h, expected_h)
    torch.testing.assert_close(y, expected_y)

    h0, c0 = state0.chunk(2, dim=1)
    y, h, c = onnx_lstm(x, length, h0, c0, lstm.onnx_w, lstm.onnx_r, lstm.onnx_b)
    expected_y, expected_state = lstm(x, length, state0)
    torch.testing.assert_close(torch.cat([h, c], dim=1), expected_state)
    torch.testing.assert_close(y, expected_y)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_two_layers_step_by_step_equal_the_sequence(kind: str) -> None:
    torch.manual_seed(4)
    stack = RecurrentStack(CellConfig(kind=kind, hidden_size=HIDDEN, num_layers=2), INPUTS).eval()
    x = torch.randn(2, 7, INPUTS)
    whole, whole_state = stack(x, None, None)
    state = torch.zeros(2, stack.state_size)
    for t in range(7):
        y, state = stack(x[:, t : t + 1], torch.ones(2, dtype=torch.int64), state)
        torch.testing.assert_close(y[:, 0], whole[:, t])
    torch.testing.assert_close(state, whole_state)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_exported_stack_equals_torch_on_ragged_rows(kind: str) -> None:
    torch.manual_seed(5)
    config = CellConfig(kind=kind, hidden_size=HIDDEN, num_layers=2)
    stack = RecurrentStack(config, INPUTS).eval()
    run = export_stack(stack)
    for num_rows, num_steps in ((4, 9), (1, 1)):
        x = torch.randn(num_rows, num_steps, INPUTS)
        state = torch.randn(num_rows, stack.state_size)
        length = torch.tensor([num_steps, 0, 1, 5])[:num_rows]
        with torch.no_grad():
            y, expected_state = stack(x, length, state)
        got_y, got_state = run(x.numpy(), length.numpy(), state.numpy())

        valid = np.arange(num_steps) < length.numpy()[:, None]
        np.testing.assert_allclose(got_y[valid], y.numpy()[valid], atol=1e-6)
        np.testing.assert_allclose(got_state, expected_state.numpy(), atol=1e-6)
        for row in np.flatnonzero(length.numpy() == 0):
            assert (got_state[row] == state.numpy()[row]).all()


def test_weights_are_reordered_before_export_not_in_the_graph() -> None:
    stack = RecurrentStack(CellConfig(kind="gru", hidden_size=HIDDEN), INPUTS).eval()
    graph = export_model(stack).graph
    [gru] = [node for node in graph.node if node.op_type == "GRU"]
    weights = set(gru.input[1:4])
    assert len(weights) == 3
    assert weights <= {initializer.name for initializer in graph.initializer}


def test_an_unknown_cell_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'elman'.*gru, lstm"):
        find_layer("elman")
    assert {"gru", "lstm"} <= set(cell_kinds())


def export_model(stack: RecurrentStack):
    import warnings

    stack.prepare_export()
    batch, time = torch.export.Dim("batch", min=1), torch.export.Dim("time", min=1)
    example = (
        torch.ones(3, 5, INPUTS),
        torch.ones(3, dtype=torch.int64),
        torch.ones(3, stack.state_size),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own notes while it exports
        program = torch.onnx.export(
            stack,
            example,
            dynamo=True,
            verbose=False,
            input_names=["x", "length", "state"],
            output_names=["y", "state_out"],
            dynamic_shapes=({0: batch, 1: time}, {0: batch}, {0: batch}),
            custom_translation_table=stack.translations,
            opset_version=18,
        )
    return program.model_proto


def export_stack(stack: RecurrentStack):
    data = export_model(stack).SerializeToString()
    ort_session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(x, length, state):
        return ort_session.run(None, {"x": x, "length": length, "state": state})

    return run
