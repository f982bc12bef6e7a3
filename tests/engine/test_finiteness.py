"""Rows that come to infinity or NaN are refused, whoever their neighbours are."""

import asyncio
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.graph import GraphSpec
from service.contract.outputs import OutputLayout
from service.engine.graph.batch_planner import BatchLimits
from service.engine.graph.finiteness import FiniteCheck
from service.engine.limits import EngineLimits
from service.engine.models.registry import Registry, load_registry
from service.engine.session.requests import Observations
from service.errors import NotFiniteError
from service.stores.memory import MemoryStore
from service.stores.record.record import Key, Record, pack_data
from tests.engine.fakes import settle
from tests.engine.support import (
    A,
    Witness,
    create_load,
    held_graphs,
    rows,
    running_engine,
    step_rows,
)
from tests.fakes.bundles import write_forecaster
from tests.fakes.overflow import HUGE, make_overflow

KEYS = [Key("t", str(place)) for place in range(9)]
SPECIALS = [np.inf, -np.inf, np.nan]


def graph_spec(dtypes, state_dtypes, batch_axis):
    shape = {0: ("batch", 3), 1: (3, "batch")}[batch_axis]
    return GraphSpec.model_validate(
        {
            "file": "g.onnx",
            "inputs": [{"name": "x", "dtype": "float32", "shape": ("batch", "time"), "role": "x"}],
            "outputs": [
                {"name": f"y{n}", "dtype": dtype, "shape": ("batch", "time", 2), "role": "value"}
                for n, dtype in enumerate(dtypes)
            ],
            "states": [
                {"input": f"s{n}", "output": f"t{n}", "dtype": dtype, "shape": shape}
                for n, dtype in enumerate(state_dtypes)
            ],
            "state_schema": "s/1",
        }
    )


def refused_of(spec, arrays, lengths):
    outputs = {each.name: arrays[each.name] for each in spec.outputs}
    last = OutputLayout(spec.outputs).join_last(outputs, lengths)
    found = FiniteCheck(spec).refused(outputs, arrays, lengths, last)
    return np.zeros(len(lengths), bool) if found is None else found


dtypes = st.lists(
    st.sampled_from(["float32", "float16", "float64", "int64", "bool"]), min_size=1, max_size=2
)


@given(st.data(), dtypes, dtypes, st.sampled_from([0, 1]), st.sampled_from([3, 700]))
def test_a_row_is_refused_if_what_it_came_to_is_not_finite(data, of_y, of_s, batch_axis, num_rows):
    """Past its length nothing counts; what is large is still a number."""
    spec = graph_spec(of_y, of_s, batch_axis)
    num_steps = data.draw(st.integers(1, 3))
    lengths = np.array(data.draw(st.lists(st.integers(1, num_steps), min_size=3, max_size=3)))
    lengths = np.resize(lengths, num_rows)
    arrays, expected = {}, np.zeros(num_rows, bool)
    for each in spec.outputs:
        values = np.full((num_rows, num_steps, 2), 1, each.dtype)
        if values.dtype.kind == "f":
            values[...] = np.finfo(each.dtype).max / 2
            row, step = (
                data.draw(st.integers(0, num_rows - 1)),
                data.draw(st.integers(0, num_steps - 1)),
            )
            if data.draw(st.booleans()):
                values[row, step, 1] = data.draw(st.sampled_from(SPECIALS))
                expected[row] |= step < lengths[row]
        arrays[each.name] = values
    for each in spec.states:
        values = np.full((num_rows, 3), 1, each.dtype)
        if values.dtype.kind == "f" and data.draw(st.booleans()):
            row = data.draw(st.integers(0, num_rows - 1))
            values[row, 2] = data.draw(st.sampled_from(SPECIALS))
            expected[row] = True
        arrays[each.output] = values if batch_axis == 0 else np.ascontiguousarray(values.T)
    np.testing.assert_array_equal(refused_of(spec, arrays, lengths), expected)


@cache
def spoilt_models() -> Registry:
    folder = Path(mkdtemp(prefix="carry-models-"))
    write_forecaster(folder)
    make_overflow(folder / "load" / "1", "state")
    return load_registry(folder, "cpu", 1)


class Counting(Witness):
    def __init__(self):
        super().__init__()
        self.num_refused = 0

    def rows_refused(self, model, version, num_rows):
        self.num_refused += num_rows


def spoilt_row():
    return np.array([[HUGE, 1]], np.float32)


async def answers_of(engine, places, **fields):
    """Each session steps by a row of its own, those at `places` by one that is too large."""
    answers = [
        engine.submit(
            key,
            step_rows(spoilt_row() if place in places else rows(1, seed=place), **fields),
        )
        for place, key in enumerate(KEYS)
    ]
    return await asyncio.gather(*answers, return_exceptions=True)


@pytest.mark.parametrize("places", [{0}, {8}, {2, 3, 7}, set(range(9))], ids=str)
@pytest.mark.parametrize("ring_size", [1, 2], ids=["as a group", "as turns"])
async def test_neighbours_in_one_batch_go_on_as_if_alone(monkeypatch, places, ring_size):
    async with running_engine(registry=spoilt_models()) as alone:
        for key in KEYS:
            await alone.submit(key, create_load(ring_size=ring_size))
            await alone.submit(key, step_rows(rows(1)))
        expected = await answers_of(alone, set())
        then = await answers_of(alone, set())
    counting = Counting()
    async with (
        running_engine(registry=spoilt_models(), observer=counting) as engine,
        held_graphs(monkeypatch) as held,
    ):
        for key in KEYS:
            await engine.submit(key, create_load(ring_size=ring_size))
            await engine.submit(key, step_rows(rows(1)))
        counting.batch_rows.clear()
        held.hold()
        first = asyncio.ensure_future(engine.submit(A, create_load(rows(1))))
        await held.has_entered()  # what comes now is one batch
        answering = asyncio.ensure_future(answers_of(engine, places))
        await settle()
        held.let_go()
        await first
        answers = await answering
        assert counting.batch_rows == [1, 9]
        assert counting.num_refused == len(places)
        for place, (got, want) in enumerate(zip(answers, expected, strict=True)):
            if place in places:
                assert isinstance(got, NotFiniteError)
            else:
                assert (got.step, got.outputs) == (want.step, want.outputs)
        for place, got in enumerate(await answers_of(engine, set())):
            want = expected[place] if place in places else then[place]
            np.testing.assert_allclose(unpacked(got), unpacked(want), atol=1e-5)
        worker = engine.workers.of(engine.registry.get("load"))
        assert (worker._backlog.num_steps, worker._backlog.num_counted) == (0, 0)


def unpacked(reply):
    return np.frombuffer(reply.outputs, np.float32)


@pytest.mark.parametrize("place", [0, 5, 11])
async def test_a_long_request_is_refused_as_a_whole_whichever_slice_it_spoils(place):
    limits = EngineLimits(batch=BatchLimits(max_rows=3, max_slice_steps=4, max_cells=12))
    observed = rows(12)
    observed[place] = spoilt_row()
    async with running_engine(limits=limits, registry=spoilt_models()) as engine:
        await engine.submit(A, create_load(rows(2)))
        before = await engine.read(A)
        for emit in ("last", "all"):
            with pytest.raises(NotFiniteError):
                await engine.submit(A, step_rows(observed, 2, emit=emit))
        assert await engine.read(A) == before
        worker = engine.workers.of(engine.registry.get("load"))
        assert (worker._backlog.num_steps, worker._backlog.num_counted) == (0, 0)
        assert (await engine.submit(A, step_rows(rows(1), 2))).step == 3


async def test_a_state_that_was_spoilt_before_is_told_from_a_bad_input():
    store = MemoryStore()
    async with running_engine(store) as engine:
        reply = await engine.submit(A, create_load(rows(2)))
        state = np.full(4, np.nan, np.float32).tobytes()
        now = await store.now()
        data = pack_data(2, state, reply.record.cursor, b"", 0, 60.0, now)
        [kept] = await store.commit([(reply.record.header, data, await store.load(A))])
        assert isinstance(kept, Record)
        with pytest.raises(NotFiniteError, match="rewind the session, or open a new one"):
            await engine.submit(A, step_rows(rows(1)))


async def test_a_prediction_names_the_instance_that_spoils_it():
    async with running_engine(registry=spoilt_models()) as engine:
        model = engine.registry.get("load")
        good, bad = Observations(rows=rows(3)), Observations(rows=spoilt_row())
        with pytest.raises(NotFiniteError, match=r"^instances\[2\]: "):
            await engine.predict(model, [(good, 0), (good, 0), (bad, 0)])
        assert len(await engine.predict(model, [(good, 0)])) == 1
