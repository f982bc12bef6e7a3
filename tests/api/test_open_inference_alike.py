"""Whatever is sent to `infer` under `/v2`, the fast path answers it as the ordinary way does."""

import itertools
import json
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.codec.rows import are_beyond, has_beyond
from service.api.codec.tensors import array_of
from service.api.v2.body import HEADER
from service.errors import InvalidInputError
from tests.api.support import listening_apart
from tests.api.test_open_inference import START_S
from tests.api.test_open_inference_fast import alike
from tests.api.test_protocol import short_way_taken

BASES = itertools.count(1, 10)
"""Sequences of an example begin here: no two examples share one."""

usual = st.floats(-9, 9, width=32)
numbers = st.sampled_from([0.5, -2.0, 3, 1e29, 1e31, 1e39, None, True, "1", 10**400])
FAULTS = {
    "shape": st.sampled_from([[1, 2, 2], [2, 1, 2], [2], [1, 0, 2], [1, 1, -2], "2", None]),
    "datatype": st.sampled_from(["FP64", 7, None]),
    "data": st.lists(usual | numbers) | st.lists(usual | numbers, min_size=2, max_size=2),
    "name": st.sampled_from(["time", "text", 5]),
    "binary_data_size": st.sampled_from([7, 9, -1, "8"]),
    "sequence_id": st.sampled_from([-1, 2.5, "", "other"]),
    "sequence_start": st.sampled_from([1, "true", None]),
    "sequence_end": st.sampled_from([0, "no"]),
    "sequence_step": st.sampled_from([-1, "0", 7]),
    "emit": st.sampled_from(["none", 1]),
    "triton_x": st.just(1),
    "id": st.sampled_from([1, ["one"]]),
    "outputs": st.sampled_from([3, [{"name": "none"}], [3]]),
    "inputs": st.sampled_from([[], 3, None]),
    "path": st.sampled_from(["load/versions/9", "mood", "none"]),
}
"""What may be wrong with a request, one at a time, by where it is."""


@st.composite
def requests(draw):
    """Path, body, and binary tensors of a request; its `sequence_id` is a place in its example."""
    path = draw(st.sampled_from(["phase", "load", "load/versions/1", "phase/versions/1"]))
    num_steps = draw(st.sampled_from([1, 1, 1, 3]))
    values = draw(st.lists(usual, min_size=2 * num_steps, max_size=2 * num_steps))
    x = {"name": "x", "shape": [1, num_steps, 2], "datatype": "FP32", "data": values}
    parameters = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "sequence_id": st.sampled_from([1, 1, 1, 2, "a", 0]),
                "sequence_start": st.booleans(),
                "sequence_end": st.sampled_from([False, False, False, True]),
                "sequence_step": st.integers(0, 2),
                "emit": st.sampled_from(["last", "all"]),
                "binary_data_output": st.booleans(),
            },
        )
    )
    body = {"inputs": [x], "parameters": parameters}
    if path.startswith("load"):
        days = [START_S + 86_400 * day for day in range(num_steps)]
        times = {"name": "time", "shape": [1, num_steps], "datatype": "INT64", "data": days}
        body["inputs"] += draw(st.sampled_from([[times], []]))
    wanted = st.sampled_from([[], [{"name": "mean", "parameters": {"binary_data": True}}]])
    body |= draw(st.fixed_dictionaries({}, optional={"id": st.text(), "outputs": wanted}))
    tail = b""
    if draw(st.booleans()):
        tail = np.float32(x.pop("data")).tobytes()
        x["parameters"] = {"binary_data_size": len(tail)}
    fault = draw(st.sampled_from([*[None] * 15, *FAULTS]))
    if fault is not None:
        value = draw(FAULTS[fault])
        if fault == "path":
            path = value
        elif fault in body or fault == "id":
            body[fault] = value
        elif fault in x:
            x[fault] = value
        elif fault in x.get("parameters", {}):
            x["parameters"][fault] = value
        else:
            parameters[fault] = value
    return path, body, tail


@pytest.fixture(scope="module")
def services():
    """Two that are alike, and what has taken the fast path."""
    with ExitStack() as stack:
        taken = short_way_taken(stack.enter_context(pytest.MonkeyPatch.context()))
        yield *(stack.enter_context(listening_apart()) for _ in range(2)), taken


@given(st.lists(requests(), min_size=1, max_size=4))
def test_both_ways_answer_alike(services, script):
    ordinary, fast, taken = services
    base, num_taken = next(BASES), len(taken)
    for path, body, tail in script:
        sent = framed(body, tail, base)
        expected = ordinary.post(f"/v2/models/{path}/infer?ordinary", **sent)
        assert alike(fast.post(f"/v2/models/{path}/infer", **sent)) == alike(expected)
    assert len(taken) == num_taken + len(script)


def framed(body, tail, base):
    """The request, of a sequence that is its example's own."""
    place = body["parameters"].get("sequence_id")
    if place in (1, 2, "a"):
        own = f"a{base}" if place == "a" else base + place
        body = body | {"parameters": body["parameters"] | {"sequence_id": own}}
    head = json.dumps(body).encode()
    headers = {"Accept-Encoding": "", "Content-Type": "application/json"}
    if tail:
        headers |= {"Content-Type": "application/octet-stream", HEADER: str(len(head))}
    return {"content": head + tail, "headers": headers}


@given(st.lists(st.floats(allow_nan=False) | st.floats(-1e39, 1e39), min_size=1))
def test_lists_of_fractions_are_packed_as_any_list_is_read(values):
    def read(data):
        try:
            return array_of(data, "float32", "x").tobytes()
        except InvalidInputError as error:
            return str(error)

    assert read(values) == read([values])  # what is nested is not packed


@given(
    st.lists(st.floats() | st.floats(width=32) | st.sampled_from([1e30, 1.1e30, -1e31, 2e19])),
    st.sampled_from(["float32", "float64"]),
)
def test_a_value_that_is_too_large_is_seen_in_any_array(values, dtype):
    with np.errstate(over="ignore"):
        array = np.array(values, dtype)
    assert has_beyond(array) == bool(are_beyond(array).any())
