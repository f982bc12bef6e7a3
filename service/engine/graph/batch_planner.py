"""Which waiting work goes into the next call of the graph. Pure: no clock, no I/O.

Rule 1: the oldest waiting job is always in the batch, so nothing starves: unfinished jobs go back
        to the end of the queue, behind whatever came meanwhile.
Rule 2: a job gives at most `max_slice_steps` steps to one batch, so a long history is interleaved
        with the single steps of others.
Rule 3: rows of one batch lie in the same power-of-two class of length, so less than half of the
        padded cells are waste.
Rule 4: rows × longest row ≤ `max_batch_cells`, so the time of one call is bounded.
"""

from collections.abc import Sequence
from typing import NamedTuple


class BatchLimits(NamedTuple):
    """`is_ragged`: rows of one batch may differ in length; else they are all equally long."""

    max_rows: int
    max_slice_steps: int
    max_cells: int
    is_ragged: bool = True


class Plan(NamedTuple):
    """Of the waiting job at each of `jobs`, as many steps as `num_steps` says."""

    jobs: list[int]
    num_steps: list[int]


def plan(remaining_steps: Sequence[int], limits: BatchLimits) -> Plan:
    """Remaining steps of each waiting job, oldest first → the next batch.

    Never empty when something waits; each job appears at most once, in order.
    """
    if remaining_steps and max(remaining_steps) == 1:  # single steps only: what comes first
        num_rows = min(len(remaining_steps), limits.max_rows, limits.max_cells)
        return Plan(list(range(num_rows)), [1] * num_rows)
    jobs: list[int] = []
    sizes: list[int] = []
    longest = 0
    length_class = 0
    for job, remaining in enumerate(remaining_steps):
        num_steps = min(remaining, limits.max_slice_steps)
        num_cells = max(longest, num_steps) * (len(jobs) + 1)
        if not jobs:
            length_class = num_steps.bit_length()
        elif (
            num_steps.bit_length() != length_class
            or num_cells > limits.max_cells
            or not (limits.is_ragged or num_steps == longest)
        ):
            continue
        jobs.append(job)
        sizes.append(num_steps)
        longest = max(longest, num_steps)
        if len(jobs) == limits.max_rows:
            break
    return Plan(jobs, sizes)
