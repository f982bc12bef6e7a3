"""Every cell: its equation, its gradient, and the promises that a stream rests on."""

import numpy as np
import pytest
import torch

from tests.training.cells.equations import CASES
from training.cells.base import LOWEST, RecurrentStack, cell_kinds, find_layer
from training.cells.gated_linear import parallel_scan
from training.config import CellConfig, parse_section

F, H = 2, 4
every_cell = pytest.mark.parametrize("case", CASES)


def make_layer(case, seed=0):
    """Weights moved away from their start, at which a bias of 0 would hide that it is not used."""
    kind, options, _ = CASES[case]
    torch.manual_seed(seed)
    layer = find_layer(kind)
    made = layer(F, H, parse_section(layer.Options, options, case)).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return made


def start_of(layer, num_rows):
    return layer.initial_state().double().expand(num_rows, -1)


def sequence(num_rows, num_steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, num_steps, F, generator=generator, dtype=torch.float64)


def test_every_cell_has_an_equation_to_be_tested_against():
    assert {kind for kind, _, _ in CASES.values()} == set(cell_kinds())


@every_cell
def test_a_sequence_is_the_equation_step_by_step(case):
    layer, x = make_layer(case), sequence(1, 11)
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    y, _ = layer(x, None, start_of(layer, 1))
    expected = CASES[case][2](weights, x[0].numpy())
    np.testing.assert_allclose(y[0].detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@every_cell
def test_gradients_are_those_of_finite_differences_also_through_the_state(case):
    """BPTT: the gradient of a shared weight is the sum over all steps that it touched."""
    layer, x = make_layer(case), sequence(2, 5).requires_grad_()

    def in_two_calls(x, *weights):
        first, state = layer(x[:, :2], torch.tensor([2, 1]), start_of(layer, 2))
        second, state = layer(x[:, 2:], torch.tensor([1, 3]), state)
        return first[0], second[1], state

    assert torch.autograd.gradcheck(in_two_calls, (x, *layer.parameters()))


@every_cell
def test_steps_give_the_outputs_and_the_state_of_the_sequence(case):
    layer, x = make_layer(case), sequence(3, 9)
    whole, whole_state = layer(x, None, start_of(layer, 3))
    state = start_of(layer, 3)
    for t in range(9):
        y, state = layer.step(x[:, t], state)
        torch.testing.assert_close(y, whole[:, t])
    torch.testing.assert_close(state, whole_state)


@every_cell
def test_what_stands_behind_a_row_changes_nothing(case):
    """NaN in the padding would show in everything that it touched."""
    layer, x = make_layer(case), sequence(3, 9)
    length = torch.tensor([9, 1, 4])
    padded = x.clone()
    for row, steps in enumerate(length):
        padded[row, steps:] = torch.nan
    y, state = layer(padded, length, start_of(layer, 3))
    for row, steps in enumerate(length):
        alone, alone_state = layer(x[row : row + 1, :steps], None, start_of(layer, 1))
        torch.testing.assert_close(y[row, :steps], alone[0])
        torch.testing.assert_close(state[row], alone_state[0])


@every_cell
def test_a_stack_gives_a_row_of_length_0_its_state_back(case):
    kind, options, _ = CASES[case]
    torch.manual_seed(2)
    config = CellConfig(kind=kind, hidden_size=H, num_layers=2, options=options)
    stack = RecurrentStack(config, F).eval()
    x = sequence(2, 3).float()
    _, state = stack(x, None, None)
    _, kept = stack(-x, torch.tensor([0, 3]), state)
    assert torch.equal(kept[0], state[0])
    assert not torch.equal(kept[1], state[1])


@every_cell
def test_a_session_starts_at_finite_numbers(case):
    layer = make_layer(case)
    state = layer.initial_state()
    assert state.shape == (layer.state_size,)
    assert torch.isfinite(state).all()
    assert ((state == 0) | (state == LOWEST)).all()


def test_the_clock_of_a_clockwork_rnn_starts_again_with_its_slowest_module():
    """A count that only grew would some day be too large to be exact."""
    layer = make_layer("clockwork")
    counts, state = [], start_of(layer, 1)
    for _ in range(5):
        counts.append(state[0, -1].item())
        _, state = layer.step(sequence(1, 1)[:, 0], state)
    assert counts == [0, 1, 0, 1, 0]


def test_a_full_ring_stays_full():
    layer = make_layer("ring_attention")
    counts, state = [], start_of(layer, 1)
    for _ in range(5):
        counts.append(state[0, -1].item())
        _, state = layer.step(sequence(1, 1)[:, 0], state)
    assert counts == [0, 1, 2, 3, 3]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 8, 9])
def test_the_parallel_scan_is_the_loop_and_so_are_its_gradients(num_steps):
    torch.manual_seed(num_steps)
    a, b = torch.rand(2, num_steps, 3).double(), torch.randn(2, num_steps, 3).double()
    given = [value.requires_grad_() for value in (a, b, torch.randn(2, 3).double())]
    h, steps = given[2], []
    for t in range(num_steps):
        h = a[:, t] * h + b[:, t]
        steps.append(h)
    loop = torch.stack(steps, dim=1)
    scan = parallel_scan(*given)
    torch.testing.assert_close(scan, loop)
    reading = torch.randn_like(loop)
    for got, expected in zip(
        torch.autograd.grad((scan * reading).sum(), given),
        torch.autograd.grad((loop * reading).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_attention_stays_exact_over_a_long_stream_with_rising_scores():
    """Each score is the largest so far, the sum of the exponentials alone would overflow."""
    layer = make_layer("attention").float()
    with torch.no_grad():
        layer.score.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.stack([torch.linspace(0, 500, 3000), torch.zeros(3000)], dim=1)[None]
    with torch.no_grad():
        y, state = layer(x, None, layer.initial_state()[None])
        values = layer.value(x)[0].double()
    p = torch.softmax(x[0].double(), dim=0)
    expected = torch.cat([p[:, :1] * values[:, :2], p[:, 1:] * values[:, 2:]], dim=1).sum(dim=0)
    torch.testing.assert_close(y[0, -1].double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(state).all()
