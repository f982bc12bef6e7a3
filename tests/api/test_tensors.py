"""Sessions of a graph that was brought along: tensors in, tensors out."""

import asyncio

import numpy as np
import pytest

from service.api.codec.tensors import array_of, shaped
from service.errors import InvalidInputError
from tests.api.support import serving
from tests.fakes.foreign import leaky, leaky_graph
from training.foreign.choices import Choices
from training.foreign.command import write_bundle_of

XS = np.random.default_rng(3).uniform(-1, 1, (6, 3)).astype(np.float16)


@pytest.fixture(scope="module", params=["batch", 1])
def models(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "g.onnx").write_bytes(leaky_graph(request.param))
    models = folder / "models"
    choices = Choices(constants={"gain": 1})
    write_bundle_of(
        folder / "g.onnx", choices, None, "leaky", "1", "", "MIT", 1e-3, "import", models
    )  # fmt: skip
    return models


def shape(models, xs):
    """As the graph has it: with a leading 1 where it takes one row."""
    return xs.reshape(*xs.shape[:-1], 1, 3) if not takes_rows(models) else xs


def takes_rows(models):
    return '"batch"' in (models / "leaky/1/manifest.json").read_text()


async def step(client, session, **body):
    response = await client.post(f"/v1/sessions/{session}/steps", json=body)
    assert response.status_code == 200, response.text
    tensor = response.json()["prediction"]["tensors"]["y"]
    assert tensor["datatype"] == "FP16"
    return np.array(tensor["data"], np.float16), response


async def test_observations_are_stepped_one_by_one_or_several_at_once(models):
    async with serving(models=models) as client:
        for name in ("one", "many"):
            body = {"model": "leaky", "session": name}
            assert (await client.post("/v1/sessions", json=body)).status_code == 201
        expected = leaky(XS)
        for at, x in enumerate(XS):
            given = {"x": shape(models, x).tolist()}
            answer, _ = await step(client, "one", step=at, tensors=given)
            np.testing.assert_array_equal(answer, expected[at])
        many = {"x": {"shape": list(shape(models, XS).shape), "datatype": "FP16",
                      "data": XS.reshape(-1).tolist()}}  # fmt: skip
        answer, response = await step(client, "many", step=0, tensors=many)
        np.testing.assert_array_equal(answer, expected[-1])
        assert response.json()["step"] == 6
        _, again = await step(client, "many", step=0, tensors={"x": shape(models, XS).tolist()})
        assert again.headers["Idempotent-Replayed"] == "true"


async def test_rows_with_other_constants_are_answered_by_theirs(models):
    async with serving(models=models) as client:
        names = [f"s{n}" for n in range(12)]
        for name in names:
            await client.post("/v1/sessions", json={"model": "leaky", "session": name})
        gains = [1 + n % 3 for n in range(12)]
        answers = await asyncio.gather(
            *(
                step(client, name, tensors={"x": shape(models, XS[0]).tolist(), "gain": gain})
                for name, gain in zip(names, gains, strict=True)
            )
        )
        for gain, (answer, _) in zip(gains, answers, strict=True):
            np.testing.assert_array_equal(answer, leaky(XS[:1], gain)[0])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"observations": [[1, 2, 3]]}, 'reads "tensors"'),
        ({"tensors": {}}, "missing ['x']"),
        ({"tensors": {"x": [1, 2], "z": 1}}, "unknown ['z']"),
        ({"tensors": {"x": [1, 2]}}, "has shape [2]"),
        ({"tensors": {"x": [[1, 2, 3], [4]]}}, "of one length each, of FP16"),
        ({"tensors": {"x": [1, 2, 1e9]}}, "that FP16 has no room for"),
        ({"tensors": {"x": ["a", "b", "c"]}}, "holds strings: expected FP16"),
        ({"tensors": {"x": {"shape": [3], "datatype": "FP32", "data": [1, 2, 3]}}}, "FP16"),
        ({"tensors": {"x": {"shape": [4], "datatype": "FP16", "data": [1, 2, 3]}}}, "3 values"),
        ({"tensors": {"x": {"shape": [3]}}}, 'expected "shape"'),
        ({"tensors": {"x": [1, 2, 3]}, "final": True}, '"final" ends a text'),
    ],
)
async def test_tensors_that_do_not_fit_are_refused_with_the_place(models, body, told):
    async with serving(models=models) as client:
        await client.post("/v1/sessions", json={"model": "leaky", "session": "s"})
        response = await client.post("/v1/sessions/s/steps", json=body)
        assert response.status_code == 422, response.text
        assert told in response.json()["detail"]
        assert (await client.get("/v1/sessions/s")).json()["step"] == 0


async def test_tensors_are_not_kept_and_an_opening_that_asks_for_it_says_so(models):
    async with serving(models=models) as client:
        body = {"model": "leaky", "session": "s"}
        answer = await client.post("/v1/sessions", json=body | {"keep_observations": 5})
        assert answer.status_code == 422
        assert "reads tensors, which are not kept" in answer.json()["detail"]
        assert (await client.post("/v1/sessions", json=body)).status_code == 201


async def test_a_stream_of_another_kind_is_refused(models):
    async with serving(models=models) as client:
        body = {"instances": [{"tensors": {"x": shape(models, XS[:2]).tolist()}}]}
        answer = await client.post("/v1/models/leaky/predict", json=body)
        np.testing.assert_array_equal(
            np.array(answer.json()["predictions"][0]["tensors"]["y"]["data"], np.float16),
            leaky(XS[:2])[-1],
        )


def test_numbers_are_never_cut_to_fit():
    for data, dtype in (([1.5], "int64"), ([300], "uint8"), ([-1], "uint32"), ([2], "bool")):
        with pytest.raises(InvalidInputError):
            array_of(data, dtype, "t")
    with pytest.raises(InvalidInputError):
        shaped(np.zeros(4), [2, 2, True], "t")


@pytest.mark.parametrize(
    ("data", "found"),
    [([1.5, True], "booleans"), ([[1], [False]], "booleans"), ([None, "1.5"], "strings"),
     ([None, True], "booleans")],
)  # fmt: skip
def test_numpy_makes_no_numbers_of_booleans_and_texts(data, found):
    with pytest.raises(InvalidInputError, match=f"x holds {found}: expected FP32"):
        array_of(data, "float32", "x")


@pytest.mark.parametrize("size", [-1, 10**12, True, 1.5])
def test_a_size_that_none_can_be_is_named(size):
    with pytest.raises(InvalidInputError, match=rf"the size {size} in its shape .*from 0 to 21474"):
        shaped(np.zeros(3), [size], "x")
