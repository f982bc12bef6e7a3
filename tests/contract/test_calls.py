import numpy as np
import pytest

from service.contract.calls import Calls, ObservationLayout
from service.contract.graph import GraphSpec
from service.contract.state import StateLayout


def spec_of(shape=("batch", "time", 2, 5), overlap=3, state=("batch", 1)):
    return GraphSpec.model_validate(
        {
            "file": "g.onnx",
            "inputs": [
                {"name": "x", "dtype": "float32", "shape": shape, "role": "tensor",
                 "overlap": overlap},
                {"name": "k", "dtype": "int32", "shape": [2], "role": "constant", "value": [1, 2]},
            ],
            "outputs": [{"name": "y", "dtype": "float32", "shape": shape, "role": "value"}],
            "states": [{"input": "s", "output": "t", "dtype": "float32", "shape": state}],
            "state_schema": "g/1",
        }
    )  # fmt: skip


@pytest.mark.parametrize("shape", [("batch", "time", 2, 5), (2, "time", "batch", 5)])
def test_an_overlap_repeats_earlier_values_even_of_several_observations(shape):
    """Each observation has two new values and repeats three."""
    spec = spec_of(shape)
    layout = StateLayout(spec.carried)
    calls = Calls(spec, layout)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 2, 2)).astype(np.float32)
    rows = [layout.initial_row] * 3
    feeds, ends = calls.feeds({"x": x}, rows, np.array([4, 4, 2]), {})
    fed = calls.outputs({"y": feeds["x"]})["y"]
    stream = np.concatenate([np.zeros((3, 2, 3), np.float32), *np.moveaxis(x, 1, 0)], axis=-1)
    for step in range(4):
        np.testing.assert_array_equal(fed[:, step], stream[..., 2 * step : 2 * step + 5])
    after = layout.scatter({"t": feeds["s"], **ends})
    ended = layout.gather(after)["overlap:x"]
    ended = ended if shape[0] == "batch" else np.moveaxis(ended, 1, 0)
    np.testing.assert_array_equal(ended[0], stream[0][..., 8:11])
    np.testing.assert_array_equal(ended[2], stream[2][..., 4:7])


def test_packed_observations_and_constants_unpack_to_themselves():
    layout = ObservationLayout(spec_of())
    x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    packed = layout.pack({"x": x})
    assert packed.shape == (3, 16)
    np.testing.assert_array_equal(layout.unpack(packed[None])["x"][0], x)
    assert layout.pack_constants({"k": np.array([1, 2])}) == b""
    chosen = layout.pack_constants({"k": np.array([3, 4])})
    np.testing.assert_array_equal(layout.unpack_constants(chosen)["k"], [3, 4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 5}, "longer than the overlap"),
        ({"shape": ("batch", 2, "time")}, "longer than the overlap"),
    ],
)
def test_an_overlap_without_room_for_new_values_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        spec_of(**changes)
