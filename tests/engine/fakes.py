"""A graph that is a little arithmetic, and that runs when it is told to."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np

from service.contract.outputs import OutputLayout
from service.contract.tensors import OutputSpec
from service.engine.graph.runner import BatchResult
from service.engine.inference.job import Job, Segment
from service.engine.inference.refusals import too_late

AT_MOST_S = 5.0
START = (0).to_bytes(8, "little")


def followed(state, values):
    """What the graph makes of one row: each step depends on all before it, and on their order."""
    outputs = []
    for value in values:
        state = (31 * state + int(value)) % 2**40
        outputs.append(state)
    return outputs


class FakeBatch:
    def __init__(self, graph, values, states, num_steps):
        self._graph = graph
        self.values, self.states = list(values), list(states)
        self.lengths = np.array(num_steps)
        self.num_cells = len(num_steps) * max(num_steps)
        self.answers, self.error, self.began_s, self.ort_s = [], None, 0.0, 0.0
        self.thread = None

    def run(self):
        self.thread = threading.current_thread()
        self._graph.enter(self)
        self.answers = [
            followed(int.from_bytes(state, "little"), values)
            for state, values in zip(self.states, self.values, strict=True)
        ]


class FakeGraph:
    """Model and runner in one, as far as a worker looks at them.

    `cost_s` is what each batch says it took; `hold` keeps those that come in a thread, or the long
    ones of them, until they are let go on, one by one or all; `errors` are raised first, one for
    each batch.
    """

    name, version, time, constants = "fake", "1", None, ()

    def __init__(self, cost_s=1.0):
        self.cost_s = cost_s
        self.errors = []
        self.staged = []
        self.outputs = OutputLayout(
            [OutputSpec(name="y", dtype="int64", shape=("batch", "time"), role="value")]
        )
        self.runner = self
        self._tickets = threading.Semaphore(0)
        self._is_held = False
        self._are_short_held = True
        self._entered = threading.Semaphore(0)

    def hold(self, *, only_long=False):
        self._is_held = True
        self._are_short_held = not only_long

    def let_one_go(self):
        self._tickets.release()

    def let_all_go(self):
        self._is_held = False
        self._tickets.release(1000)

    async def has_entered(self):
        """Return when one more batch is in the graph."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=AT_MOST_S)

    def enter(self, batch):
        self._entered.release()
        is_meant = self._are_short_held or batch.num_cells > len(batch.lengths)
        if self._is_held and is_meant and batch.thread is not threading.main_thread():
            assert self._tickets.acquire(timeout=AT_MOST_S)
        batch.ort_s = self.cost_s
        batch.error = self.errors.pop(0) if self.errors else None

    def stage(self, values, states, num_steps):
        batch = FakeBatch(self, values, states, num_steps)
        self.staged.append(batch)
        return batch

    def take(self, batch):
        assert batch.error is None
        last = np.array([answer[-1] for answer in batch.answers], "<i8")
        every = np.zeros((len(last), int(batch.lengths.max())), np.int64)
        for row, answer in enumerate(batch.answers):
            every[row, : len(answer)] = answer
        rows = last.view(np.uint8).reshape(-1, 8)
        return BatchResult(rows, rows, {"y": every})

    @property
    def num_rows(self):
        """Of each batch so far."""
        return [len(batch.lengths) for batch in self.staged]


class Asked:
    """A job of a fake graph, and what became of it."""

    def __init__(self, *values, deadline=float("inf"), emit="last"):
        self.values = np.array(values)
        self.future = asyncio.get_running_loop().create_future()
        self.outcome = asyncio.get_running_loop().create_future()
        self.job = Job(self.future, deadline)
        self.job.feed([Segment(self.values, len(values), emit)], START)

    @property
    def expected(self):
        return np.array(followed(0, self.values)[-1:], "<i8").tobytes()


class Desk:
    """Stands for the engine, to which a worker gives what is through; a second time would raise."""

    def __init__(self):
        self.asked = {}
        self.defects = []

    def take_up(self, *asked):
        self.asked.update({each.job: each for each in asked})
        return asked

    def on_done(self, jobs, rows, result):
        for job, row in zip(jobs, rows, strict=True):
            outputs = result.last_of(row) if job.remaining else job.outputs
            self.asked[job].outcome.set_result(outputs)

    def on_failed(self, job, error):
        self.asked[job].outcome.set_result(error)


async def settle():
    """Let everything happen that is ready to happen."""
    for _ in range(10):
        await asyncio.sleep(0)


def group_of(graph, *values):
    """Rows that travel together, and what became of them."""
    loop = asyncio.get_running_loop()
    future, outcome = loop.create_future(), loop.create_future()

    def drop_unwanted(now):
        if not (future.done() or now > group.deadline):
            return 0
        group.fail(too_late())
        group.num_rows = 0
        return len(values)

    group = SimpleNamespace(
        deadline=float("inf"),
        timings=(),
        num_rows=len(values),
        num_pieces=1,
        admission=None,
        is_full=True,
        future=future,
        outcome=outcome,
        drop_unwanted=drop_unwanted,
        stage=lambda: graph.stage([[v] for v in values], [START] * len(values), [1] * len(values)),
        ran=lambda result: outcome.set_result([result.last_of(row) for row in range(len(values))]),
        fail=outcome.set_result,
        expected=[followed(0, [value])[-1].to_bytes(8, "little") for value in values],
    )
    return group
