import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.contract.errors import BundleError
from service.contract.state import StateLayout, StateSpec

H_SPEC = StateSpec(input="h", output="hn", dtype="float32", shape=(2, "batch", 3))
C_SPEC = StateSpec(input="c", output="cn", dtype="float16", shape=("batch", 5))
N_SPEC = StateSpec(input="n", output="nn", dtype="int64", shape=("batch",))
LAYOUT = StateLayout([H_SPEC, C_SPEC, N_SPEC])


def outputs_of(num_rows, seed):
    rng = np.random.default_rng(seed)
    return {
        "nn": rng.integers(-9, 9, num_rows),
        "hn": rng.normal(size=(2, num_rows, 3)).astype(np.float32),
        "cn": rng.normal(size=(num_rows, 5)).astype(np.float16),
    }


@given(st.integers(1, 9), st.integers(0, 1000))
def test_gather_is_the_inverse_of_scatter_for_any_batch_axis(num_rows, seed):
    outputs = outputs_of(num_rows, seed)
    gathered = LAYOUT.gather(LAYOUT.scatter(outputs))
    for spec in LAYOUT.specs:
        np.testing.assert_array_equal(gathered[spec.input], outputs[spec.output])


@given(st.permutations(range(5)))
def test_rows_can_be_gathered_in_any_order(order):
    rows = LAYOUT.scatter(outputs_of(5, seed=1))
    gathered = LAYOUT.gather([rows[index] for index in order])
    np.testing.assert_array_equal(gathered["n"], outputs_of(5, seed=1)["nn"][list(order)])


def test_a_session_starts_from_the_named_array():
    spec = StateSpec(input="m", output="mn", dtype="float32", shape=("batch", 2), initial="floor")
    layout = StateLayout([spec], {"floor": np.array([-1024.0, 1.0], np.float32)})
    np.testing.assert_array_equal(layout.gather([layout.initial_row])["m"], [[-1024.0, 1.0]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "found \\[\\]"),
        ({"floor": np.zeros(3, np.float32)}, "expected float32"),
        ({"floor": np.array([-np.inf, 0], np.float32)}, "expected finite values"),
    ],
)
def test_an_invalid_initial_array_is_refused(arrays, message):
    spec = StateSpec(input="m", output="mn", dtype="float32", shape=("batch", 2), initial="floor")
    with pytest.raises(BundleError, match=message):
        StateLayout([spec], arrays)


@pytest.mark.parametrize("shape", [("time",), ("batch", "time"), ("batch", "batch")])
def test_a_state_has_one_row_axis_and_no_time(shape):
    with pytest.raises(ValidationError, match="expected one"):
        StateSpec(input="h", output="hn", dtype="float32", shape=shape)


def test_the_schema_hash_differs_by_layout_and_meaning():
    same = StateLayout([H_SPEC, C_SPEC, N_SPEC])
    swapped = StateLayout([C_SPEC, H_SPEC, N_SPEC])
    renamed = StateLayout([H_SPEC, C_SPEC, N_SPEC], schema="other/1")
    assert LAYOUT.schema_hash == same.schema_hash
    assert len({LAYOUT.schema_hash, swapped.schema_hash, renamed.schema_hash}) == 3


def test_norms_are_finite_for_any_state():
    specs = [
        StateSpec(input="h", output="hn", dtype="float64", shape=("batch", 2)),
        StateSpec(input="x", output="xn", dtype="float32", shape=("batch", 3)),
    ]
    state = np.array([-1e308, 1e308], "<f8").tobytes()
    state += np.array([np.nan, 3, 4], "<f4").tobytes()
    layout = StateLayout(specs)
    assert layout.norms(state) == {"h": pytest.approx(1.4142e308, rel=1e-3), "x": 5.0}
    assert layout.norms(layout.initial_row) == {"h": 0.0, "x": 0.0}
    state = np.full(2, np.finfo(np.float64).max, "<f8").tobytes() + bytes(12)
    assert np.isfinite(layout.norms(state)["h"])
