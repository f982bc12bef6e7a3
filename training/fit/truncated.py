"""Truncated back-propagation through time, in two numbers (Williams & Peng, 1990).

    window_size     how many steps back a gradient goes
    shifting_size   how far the window moves from one update of the weights to the next

Axis legend: B rows, T steps, S state size.

        start          carry_at   counted_from    end
          |---------------|------------|-----------|
          state, detached                the newest `shifting_size` steps: their loss is counted

Rule 1: every step's loss is counted once, in the first window that holds it.
Rule 2: a window starts from the state that the last one left at `carry_at`: right, but detached, so
        no gradient passes into older steps.
Rule 3: weights may change between windows; a carried state is then that of slightly older ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from training.tasks.base import Batch, SequenceLoss, StreamNetwork


@dataclass(frozen=True, slots=True)
class Window:
    """Steps `[start, end)`; those before `counted_from` only carry the gradient."""

    start: int
    carry_at: int
    counted_from: int
    end: int


def cut_windows(num_steps: int, window_size: int, shifting_size: int) -> list[Window]:
    """The windows over a sequence of `num_steps`, from its first step on."""
    ends = [*range(shifting_size, num_steps, shifting_size), num_steps]
    starts = [max(0, end - window_size) for end in ends]
    return [
        Window(start, carry_at, counted_from, end)
        for start, carry_at, counted_from, end in zip(
            starts, [*starts[1:], num_steps], [0, *ends], ends, strict=False
        )
    ]


def truncated_losses(
    loss: SequenceLoss, network: StreamNetwork, batch: Batch, window_size: int, shifting_size: int
) -> Iterator[Tensor]:
    """One loss for each window; the caller steps the optimiser between two of them."""
    state: Tensor | None = None
    for window in cut_windows(loss.num_steps(batch), window_size, shifting_size):
        places = sorted({window.start, window.carry_at, window.counted_from, window.end})
        counted, carried = [], state
        for start, end in pairwise(place for place in places if window.start <= place):
            value, carried = loss.part(network, loss.cut(batch, slice(start, end)), carried)
            if start >= window.counted_from:
                counted.append(value * (end - start))
            if end == window.carry_at:
                state = carried.detach()
        total = window.end - window.counted_from
        yield sum(counted[1:], start=counted[0]) / total
