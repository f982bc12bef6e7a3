"""Two replicas on a store that loses answers do what the rules of a session say, whatever comes.

Requests of any kind, right or wrong, repeated, racing, at any time; see `protocol_model.py`. One
that is answered 503 is repeated, as clients must.
"""

import asyncio

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.engine.dispatch import group_commit as committer
from service.engine.engine import Engine
from service.engine.session.requests import CreateRequest, DeleteRequest, Observations, StepRequest
from service.errors import (
    CarryError,
    DigestMismatchError,
    OutcomeUnknownError,
    StoreUnavailableError,
)
from service.stores.base import WritesFailedError
from service.stores.memory import MemoryStore
from service.stores.record.record import Key
from tests.engine.protocol_model import Answered, Model
from tests.engine.support import outputs_of, rows, small_models

ROWS = [rows(1, seed=seed)[0] for seed in range(3)]
LOST = OutcomeUnknownError("lost", retry_after_s=1)
MAX_TRIES = 8

names = st.sampled_from(["a", "b"])
replicas = st.sampled_from([0, 1])
row_numbers = st.sampled_from(range(len(ROWS)))
ttls = st.sampled_from([100.0, 1000.0])
ring_sizes = st.sampled_from([1, 2])
failures = st.lists(
    st.sampled_from(["fine", "lost before", "lost behind", "away", "unreadable"]), max_size=4
)


class FaultyStore(MemoryStore):
    """Each commit meets the next failure: its answer is lost, it is refused, or reads fail next."""

    def __init__(self, clock):
        super().__init__(clock)
        self.failures = []
        self._num_loads_failing = 0

    async def commit(self, writes):
        await asyncio.sleep(0)  # others come between, as on a network
        failure = self.failures.pop(0) if self.failures else "fine"
        if failure == "away":
            raise StoreUnavailableError("away", retry_after_s=1)
        kept = None if failure == "lost before" else await super().commit(writes)
        await asyncio.sleep(0)
        if failure == "unreadable":
            self._num_loads_failing = 3
        if failure != "fine":
            raise WritesFailedError([LOST] * len(writes))
        return kept

    async def load(self, key):
        await asyncio.sleep(0)
        if self._num_loads_failing:
            self._num_loads_failing -= 1
            raise StoreUnavailableError("away", retry_after_s=1)
        return await super().load(key)


def forecast(numbers):
    """What the graph itself makes of the whole series, in one call."""
    count = len(numbers)
    means, _ = (
        small_models()
        .get("load")
        .runner._ort_session.run(
            ["mean", "quantiles"],
            {
                "x": np.stack([ROWS[number] for number in numbers])[None],
                "time": 86_400 * np.arange(count)[None],
                "length": np.array([count]),
                "state": np.zeros((1, 4), np.float32),
            },
        )
    )
    return means[0, -1]


class Protocol(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.model = Model()
        self.runner = asyncio.Runner()
        self.store = FaultyStore(lambda: self.model.now)
        self.runner.run(self._start())

    async def _start(self):
        self.engines = [Engine(small_models(), self.store) for _ in range(2)]
        for engine in self.engines:
            await engine.start()

    def teardown(self):
        async def close():
            for engine in self.engines:
                await engine.close(grace_s=5)

        self.store.failures = []
        self.runner.run(close())
        self.runner.close()

    @rule(name=names, at=replicas, ttl_s=ttls, ring_size=ring_sizes, resumes=st.booleans())
    def create(self, name, at, ttl_s, ring_size, resumes):
        request = CreateRequest(
            "load", None, ttl_s=ttl_s, ring_size=ring_size, start_s=0, resumes=resumes
        )
        expected = self.model.create(name, ttl_s, ring_size, resumes=resumes)
        self._ask(at, name, request, expected)

    @rule(name=names, at=replicas, row=row_numbers, ahead=st.integers(-3, 2))
    def step_with_a_number(self, name, at, row, ahead):
        life = self.model.lives.get(name)
        step = max(0, (len(life.rows) if life else 0) + min(ahead, 1))
        expected = self.model.step(name, row, step)
        self._ask(at, name, self._step(row, step), expected)

    @rule(name=names, at=replicas)
    def repeat_the_last_step(self, name, at):
        life = self.model.lives.get(name)
        if life and life.ring:
            row, step = life.rows[-1], life.ring[-1]
            expected = self.model.step(name, row, step)
            assert expected == Answered(step + 1, tuple(life.rows), is_replay=True)
            self._ask(at, name, self._step(row, step), expected)

    @rule(name=names, at=replicas, row=row_numbers)
    def step_without_a_number(self, name, at, row):
        """Nothing tells a repetition from another equal step, so nothing may fail here."""
        self.store.failures = []
        self._ask(at, name, self._step(row, None), self.model.step(name, row, None))

    @rule(name=names, at=replicas, row=row_numbers)
    def preview(self, name, at, row):
        request = StepRequest(Observations(rows=ROWS[row][None]), None, is_preview=True)
        self._ask(at, name, request, self.model.preview(name, row))

    @rule(name=names, one=row_numbers, other=row_numbers)
    def two_replicas_race(self, name, one, other):
        life = self.model.lives.get(name)
        if life is None or life.is_closed or life.expires_at <= self.model.now:
            return
        step = len(life.rows)
        outcomes = self.runner.run(self._race(name, step, one, other))
        won = [each for each in outcomes if not isinstance(each, CarryError)]
        lost = [each for each in outcomes if isinstance(each, CarryError)]
        assert len(won) == (2 if one == other else 1), outcomes
        assert all(isinstance(each, DigestMismatchError) for each in lost), outcomes
        winner = one if not isinstance(outcomes[0], CarryError) else other
        expected = self.model.step(name, winner, step)
        for reply in won:
            self._check(reply, expected)

    @rule(name=names, at=replicas)
    def delete(self, name, at):
        self._ask(at, name, DeleteRequest(), self.model.delete(name))

    @rule(seconds=st.sampled_from([1.0, 99.0, 100.0, 950.0]))
    def time_passes(self, seconds):
        self.model.now += seconds

    @rule()
    def sweep(self):
        self.runner.run(self.store.sweep(100))
        self.model.sweep()

    @rule(which=failures)
    def the_store_will_fail(self, which):
        self.store.failures = which

    @invariant()
    def the_store_holds_what_the_model_says(self):
        if not hasattr(self, "model"):
            return
        for name in ("a", "b"):
            found = self.runner.run(MemoryStore.load(self.store, Key("t", name)))
            life = self.model.lives.get(name)
            assert (found is None) == (life is None)
            if found and life:
                assert found.step == len(life.rows)
                assert bool(found.closed) == life.is_closed
                assert found.expires_at == life.expires_at
                assert [reply.from_step for reply in found.kept_replies] == life.ring

    @staticmethod
    def _step(row, step):
        return StepRequest(Observations(rows=ROWS[row][None]), step)

    def _ask(self, at, name, request, expected):
        outcome = self.runner.run(self._until_known(self.engines[at], name, request))
        if isinstance(expected, Answered):
            assert not isinstance(outcome, CarryError), outcome
            self._check(outcome, expected)
        else:
            assert type(outcome) is expected, outcome

    async def _race(self, name, step, one, other):
        return await asyncio.gather(
            self._until_known(self.engines[0], name, self._step(one, step)),
            self._until_known(self.engines[1], name, self._step(other, step)),
        )

    async def _until_known(self, engine, name, request):
        self.was_repeated = False
        for _ in range(MAX_TRIES):
            try:
                return await engine.submit(Key("t", name), request)
            except StoreUnavailableError:
                self.was_repeated = True  # as a client does
            except CarryError as error:
                return error
        raise AssertionError("never answered")

    def _check(self, reply, expected):
        """What was repeated because the store failed may be answered as a replay, or resume."""
        assert reply.step == expected.step
        assert reply.is_replay or not expected.is_replay
        assert reply.is_new == expected.is_new or self.was_repeated
        if expected.rows is not None:
            assert outputs_of(reply)["mean"][-1] == pytest.approx(forecast(expected.rows), abs=1e-4)


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch):
    monkeypatch.setattr(committer, "_PATIENCE_S", 0.03)


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    phases=[Phase.reuse, Phase.generate],  # to shrink 40 steps takes longer than a test may
)
