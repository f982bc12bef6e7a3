"""Truncated BPTT: which steps a gradient reaches, what is carried, what is counted."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from training.cells.base import RecurrentStack
from training.config import CellConfig
from training.fit.truncated import cut_windows, truncated_losses
from training.tasks.base import SequenceLoss

T = 12


class StackLoss(SequenceLoss):
    """Mean squared output of a stack; what it reads, `x`, can be asked for its gradient."""

    def num_steps(self, batch):
        return batch.shape[1]

    def cut(self, batch, steps):
        return batch[:, steps]

    def part(self, network, batch, state):
        y, state = network(batch, None, state)
        return y.square().mean(), state


def make_stack() -> RecurrentStack:
    torch.manual_seed(1)
    stack = RecurrentStack(CellConfig(kind="rnn", hidden_size=4), 2).double()
    nn.init.orthogonal_(stack.layers[0].weights()[1])
    return stack


def sequence() -> Tensor:
    return torch.randn(3, T, 2, generator=torch.Generator().manual_seed(2)).double()


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
def test_every_step_is_counted_once_and_reaches_back_as_far_as_it_may(
    num_steps: int, window_size: int, shifting_size: int
) -> None:
    shifting_size = min(shifting_size, window_size)
    windows = cut_windows(num_steps, window_size, shifting_size)
    counted = [t for w in windows for t in range(w.counted_from, w.end)]
    assert counted == list(range(num_steps))
    for window, after in pairwise(windows):
        assert window.start <= window.carry_at <= window.end
        assert after.start == window.carry_at
        assert after.end - window.end <= shifting_size
    for window in windows:
        assert window.end - window.start == min(window.end, window_size)


@pytest.mark.parametrize(("window_size", "shifting_size"), [(4, 4), (4, 2), (5, 3), (6, 1)])
def test_a_gradient_goes_back_window_size_steps_and_no_further(window_size, shifting_size) -> None:
    stack, x = make_stack(), sequence().requires_grad_()
    windows = cut_windows(T, window_size, shifting_size)
    losses = truncated_losses(StackLoss(), stack, x, window_size, shifting_size)
    for window, loss in zip(windows, losses, strict=True):
        [gradient] = torch.autograd.grad(loss, x, retain_graph=True)
        reached = gradient.abs().sum(dim=(0, 2)) > 0
        expected = [window.start <= t < window.end for t in range(T)]
        assert reached.tolist() == expected


@pytest.mark.parametrize(("window_size", "shifting_size"), [(4, 4), (4, 2), (5, 3), (99, 1)])
def test_losses_are_those_of_the_whole_sequence(window_size, shifting_size) -> None:
    """The state is carried: only gradients are cut, not what the network remembers."""
    stack, x = make_stack(), sequence()
    losses = list(truncated_losses(StackLoss(), stack, x, window_size, shifting_size))
    sizes = [w.end - w.counted_from for w in cut_windows(T, window_size, shifting_size)]
    total = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / T
    torch.testing.assert_close(total, stack(x, None, None)[0].square().mean())


def test_one_window_over_everything_is_full_bptt() -> None:
    stack, x = make_stack(), sequence()
    [loss] = truncated_losses(StackLoss(), stack, x, T, T)
    truncated = torch.autograd.grad(loss, list(stack.parameters()))
    full = torch.autograd.grad(stack(x, None, None)[0].square().mean(), list(stack.parameters()))
    torch.testing.assert_close(truncated, full)


def test_a_windows_gradient_is_that_of_full_bptt_from_a_detached_state() -> None:
    stack, x = make_stack(), sequence()
    second = list(truncated_losses(StackLoss(), stack, x, 4, 4))[1]
    got = torch.autograd.grad(second, list(stack.parameters()))
    with torch.no_grad():
        _, state = stack(x[:, :4], None, None)
    loss = stack(x[:, 4:8], None, state)[0].square().mean()
    torch.testing.assert_close(got, torch.autograd.grad(loss, list(stack.parameters())))
