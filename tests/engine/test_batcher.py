from hypothesis import given
from hypothesis import strategies as st

from service.engine.batcher import BatchLimits, plan

limits_strategy = st.builds(
    BatchLimits,
    max_rows=st.integers(1, 9),
    max_slice_steps=st.integers(1, 20),
    max_cells=st.integers(20, 60),
)
waiting_strategy = st.lists(st.integers(1, 200), min_size=1, max_size=30)


@given(waiting_strategy, limits_strategy)
def test_the_oldest_is_always_served_and_no_one_twice(waiting, limits):
    batch = plan(waiting, limits)
    jobs = [job for job, _ in batch]
    assert jobs[0] == 0
    assert jobs == sorted(set(jobs))


@given(waiting_strategy, limits_strategy)
def test_every_bound_holds(waiting, limits):
    batch = plan(waiting, limits)
    sizes = [num_steps for _, num_steps in batch]
    assert len(batch) <= limits.max_rows
    assert max(sizes) <= limits.max_slice_steps
    assert len(batch) == 1 or len(batch) * max(sizes) <= limits.max_cells
    assert all(1 <= size <= waiting[job] for job, size in batch)


@given(waiting_strategy, limits_strategy)
def test_less_than_half_of_the_cells_are_padding(waiting, limits):
    sizes = [num_steps for _, num_steps in plan(waiting, limits)]
    assert sum(sizes) * 2 > len(sizes) * max(sizes)


@given(waiting_strategy, limits_strategy)
def test_serving_in_rounds_ends_and_serves_every_step(waiting, limits):
    queue = list(enumerate(waiting))
    served = [0] * len(waiting)
    longest_wait = {job: 0 for job, _ in queue}
    while queue:
        batch = plan([left for _, left in queue], limits)
        chosen = dict(batch)
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


def test_single_steps_are_not_held_up_by_a_long_history():
    limits = BatchLimits(max_rows=128, max_slice_steps=64, max_cells=2048)
    assert plan([100_000, 1, 1], limits) == [(0, 64)]
    assert plan([1, 1, 99_936], limits) == [(0, 1), (1, 1)]


def test_nothing_waiting_is_an_empty_batch():
    assert plan([], BatchLimits(1, 1, 1)) == []
