"""No body, however wrong, is answered by anything but a refusal."""

from contextlib import suppress

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.v2.body import read_infer
from service.api.v2.signature import Signature, Tensor
from service.errors import CarryError, InvalidInputError, MalformedError

KINDS = ["float32", "float16", "float64", "int64", "int8", "uint64", "bool"]
SIGNATURE = Signature(
    (Tensor("x", "float32", ("batch", 3)), Tensor("s", "bytes", ("batch", 1))),
    tuple(Tensor(kind, kind, ("batch",)) for kind in KINDS),
    (Tensor("y", "float32", ("batch", 3)),),
)
X = np.arange(6, dtype=np.float32).reshape(2, 3)
S = b"\x02\0\0\0hi\0\0\0\0"


def framed(inputs, tail=b"", **body):
    text = orjson.dumps({"inputs": inputs} | body)
    return text + tail, len(text)


def binary(name, datatype, shape, size):
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


GOOD = [binary("x", "FP32", [2, 3], 24), binary("s", "BYTES", [2, 1], len(S))]


def test_binary_tensors_follow_in_the_order_of_the_inputs():
    for order in (GOOD, GOOD[::-1]):
        tail = X.tobytes() + S if order is GOOD else S + X.tobytes()
        asked = read_infer(SIGNATURE, *framed(order, tail))
        np.testing.assert_array_equal(asked.arrays["x"], X)
        assert asked.arrays["s"].tolist() == [[b"hi"], [b""]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_read_from_binary_and_json_alike(kind):
    values = np.array([0, 1, 1], kind)
    name = {tensor.name: tensor.datatype for tensor in SIGNATURE.optional}[kind]
    as_binary = binary(kind, name, [3], values.nbytes)
    as_json = {"name": kind, "datatype": name, "shape": [3], "data": values.tolist()}
    for entry, tail in ((as_binary, values.tobytes()), (as_json, b"")):
        asked = read_infer(SIGNATURE, *framed([*GOOD, entry], X.tobytes() + S + tail))
        assert asked.arrays[kind].dtype == values.dtype
        np.testing.assert_array_equal(asked.arrays[kind], values)


def test_bfloat16_is_widened():
    data = (X.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    inputs = [binary("x", "BF16", [2, 3], 12), GOOD[1]]
    np.testing.assert_array_equal(read_infer(SIGNATURE, *framed(inputs, data + S)).arrays["x"], X)


@pytest.mark.parametrize(
    ("inputs", "tail"),
    [
        (GOOD, X.tobytes() + S[:-1]),
        (GOOD, X.tobytes() + S + b"!"),
        ([binary("x", "FP32", [2, 3], 23), GOOD[1]], X.tobytes() + S),
        ([binary("x", "FP32", [2**31, 2**31], 24), GOOD[1]], X.tobytes() + S),
        ([binary("x", "FP32", [-2, -3], 24), GOOD[1]], X.tobytes() + S),
        ([binary("x", "FP32", [2, 3], -1), GOOD[1]], X.tobytes() + S),
        ([binary("x", "FP32", [2, 3], 2**63), GOOD[1]], X.tobytes() + S),
        ([GOOD[0], binary("s", "BYTES", [2, 1], 4)], X.tobytes() + b"\xff\xff\xff\xff"),
        ([GOOD[0], GOOD[0], GOOD[1]], X.tobytes() * 2 + S),
    ],
)
def test_a_size_that_lies_is_refused(inputs, tail):
    with pytest.raises((MalformedError, InvalidInputError)):
        read_infer(SIGNATURE, *framed(inputs, tail))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["name", "shape", "datatype", "data", "parameters", "binary_data_size"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "s", *KINDS, "?"]) | JSON,
        "shape": st.lists(st.integers(-2, 2**33), max_size=4) | JSON,
        "datatype": st.sampled_from(["FP32", "FP16", "BF16", "BYTES", "BOOL", "INT64"]) | JSON,
        "data": JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}) | JSON,
    },
)


@given(st.lists(ENTRY, max_size=3) | JSON, st.binary(max_size=60), JSON, st.integers(-3, 3))
def test_any_body_is_read_or_refused(inputs, tail, outputs, lie):
    try:
        text = orjson.dumps({"inputs": inputs, "outputs": outputs})
    except TypeError:  # an integer beyond 64 bits
        text = b'{"inputs": 1e400}'
    for json_bytes in (None, len(text) + lie):
        with suppress(MalformedError, InvalidInputError):
            read_infer(SIGNATURE, text + tail, json_bytes)


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
def test_any_bytes_are_refused(data, json_bytes):
    with pytest.raises(CarryError):
        read_infer(SIGNATURE, data, json_bytes)


@pytest.mark.parametrize("depth", [20, 100, 900, 100_000])
def test_deep_json_is_refused(depth):
    data = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":' + b"[" * depth
    data += b"]" * depth + b"}]}"
    with pytest.raises(CarryError):
        read_infer(SIGNATURE, data, None)
