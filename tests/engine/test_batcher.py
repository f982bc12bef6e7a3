from hypothesis import given
from hypothesis import strategies as st

from service.engine.graph.batch_planner import BatchLimits, Plan, plan

limits_strategy = st.builds(
    BatchLimits,
    max_rows=st.integers(1, 9),
    max_slice_steps=st.integers(1, 20),
    max_cells=st.integers(20, 60),
)
num_steps_strategy = st.integers(1, 200) | st.just(1)
waiting_strategy = st.lists(num_steps_strategy, min_size=1, max_size=30)
ones_strategy = st.lists(st.just(1), min_size=1, max_size=30)


@given(waiting_strategy | ones_strategy, limits_strategy)
def test_the_oldest_is_always_served_and_no_one_twice(waiting, limits):
    batch = plan(waiting, limits)
    assert batch.jobs[0] == 0
    assert batch.jobs == sorted(set(batch.jobs))
    assert len(batch.jobs) == len(batch.num_steps)


@given(waiting_strategy | ones_strategy, limits_strategy)
def test_every_bound_holds(waiting, limits):
    jobs, sizes = plan(waiting, limits)
    assert len(jobs) <= limits.max_rows
    assert max(sizes) <= limits.max_slice_steps
    assert len(jobs) == 1 or len(jobs) * max(sizes) <= limits.max_cells
    assert all(1 <= size <= waiting[job] for job, size in zip(jobs, sizes, strict=True))


@given(waiting_strategy, limits_strategy)
def test_less_than_half_of_the_cells_are_padding(waiting, limits):
    sizes = plan(waiting, limits).num_steps
    assert sum(sizes) * 2 > len(sizes) * max(sizes)


@given(ones_strategy, limits_strategy)
def test_single_steps_fill_a_batch_in_the_order_in_which_they_came(waiting, limits):
    num_rows = min(len(waiting), limits.max_rows, limits.max_cells)
    assert plan(waiting, limits) == Plan(list(range(num_rows)), [1] * num_rows)


@given(waiting_strategy, limits_strategy)
def test_serving_in_rounds_ends_and_serves_every_step(waiting, limits):
    queue = list(enumerate(waiting))
    served = [0] * len(waiting)
    longest_wait = {job: 0 for job, _ in queue}
    while queue:
        chosen = dict(zip(*plan([left for _, left in queue], limits), strict=True))
        behind = []
        for place, (job, left) in enumerate(queue):
            size = chosen.get(place, 0)
            served[job] += size
            longest_wait[job] = 0 if size else longest_wait[job] + 1
            if size and left > size:
                behind.append((job, left - size))
        assert max(longest_wait.values()) <= len(waiting)
        queue = [entry for place, entry in enumerate(queue) if place not in chosen] + behind
    assert served == waiting


@given(st.lists(st.lists(num_steps_strategy, max_size=8), min_size=1, max_size=40), limits_strategy)
def test_whatever_keeps_coming_nobody_waits_longer_than_for_those_before_him(arrivals, limits):
    """A job that finds n others waiting is in one of the next n + 1 batches, slice after slice."""
    queue = []  # remaining steps, and in how many batches it must be at the latest
    for arriving in arrivals:
        for num_steps in arriving:
            queue.append((num_steps, len(queue) + 1))
        jobs, sizes = plan([left for left, _ in queue], limits)
        taken = dict(zip(jobs, sizes, strict=True))
        unfinished = [queue[job][0] - size for job, size in taken.items() if queue[job][0] > size]
        queue = [
            (left, batches_left - 1)
            for place, (left, batches_left) in enumerate(queue)
            if place not in taken
        ]
        assert all(batches_left > 0 for _, batches_left in queue)
        for left in unfinished:
            queue.append((left, len(queue) + 1))


def test_single_steps_are_not_held_up_by_a_long_history():
    limits = BatchLimits(max_rows=128, max_slice_steps=64, max_cells=2048)
    assert plan([100_000, 1, 1], limits) == Plan([0], [64])
    assert plan([1, 1, 99_936], limits) == Plan([0, 1], [1, 1])


def test_nothing_waiting_is_an_empty_batch():
    assert plan([], BatchLimits(1, 1, 1)) == Plan([], [])
