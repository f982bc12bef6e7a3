"""`/v2` through Triton's own client, unchanged."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.api.support import listening, serving, small_folder
from tests.fakes.foreign import leaky, leaky_graph
from training.foreign.choices import Choices
from training.foreign.command import write_bundle_of

XS = np.random.default_rng(5).uniform(-1, 1, (6, 3)).astype(np.float16)
START_S = 1_471_824_000


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The small models, and one that was brought along."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "g.onnx").write_bytes(leaky_graph())
    for child in small_folder().iterdir():
        (folder / "all" / child.name).parent.mkdir(exist_ok=True)
        (folder / "all" / child.name).symlink_to(child)
    choices = Choices(constants={"gain": 1})
    write_bundle_of(
        folder / "g.onnx", choices, None, "leaky", "1", "", "MIT", 1e-3, "import", folder / "all"
    )  # fmt: skip
    return folder / "all"


@asynccontextmanager
async def triton_client(models, **settings):
    """Its calls block, so they are made in a thread: one, because gevent's sockets belong to it."""
    async with listening(models=models, **settings) as client:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:

            async def call(name, *args, **options):
                method = partial(getattr(triton_http, name), *args, **options)
                return await loop.run_in_executor(thread, method)

            triton_http = await loop.run_in_executor(
                thread, triton.InferenceServerClient, f"127.0.0.1:{client.port}"
            )
            try:
                yield call
            finally:
                await loop.run_in_executor(thread, triton_http.close)


def given(name, values, datatype="FP16", *, binary=True):
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def wanted(name, *, binary=True):
    return triton.InferRequestedOutput(name, binary_data=binary)


async def test_health_and_metadata(models):
    async with triton_client(models) as call:
        assert await call("is_server_live")
        assert await call("is_server_ready")
        assert await call("is_model_ready", "leaky")
        assert not await call("is_model_ready", "nothing")
        server = await call("get_server_metadata")
        assert server["name"] == "carry"
        assert "sequence" in server["extensions"]
        metadata = await call("get_model_metadata", "leaky", "1")
        assert metadata["versions"] == ["1"]
        assert metadata["inputs"] == [
            {"name": "x", "datatype": "FP16", "shape": [-1, 3]},
            {"name": "gain", "datatype": "FP16", "shape": [1]},
        ]
        assert metadata["outputs"] == [{"name": "y", "datatype": "FP16", "shape": [-1, 3]}]
        assert (await call("get_model_metadata", "load"))["versions"] == ["1", "2"]


async def test_configuration_says_that_models_have_sequences(models):
    async with triton_client(models) as call:
        config = await call("get_model_config", "load")
        assert "sequence_batching" in config
        assert config["max_batch_size"] > 0
        assert config["input"][0] == {
            "name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2], "optional": False,
        }  # fmt: skip


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
async def test_infer_in_json_and_binary_either_way(models, binary_in, binary_out, compression):
    async with triton_client(models) as call:
        x = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)
        times = START_S + 86_400 * np.tile(np.arange(5), (2, 1))
        answer = await call(
            "infer",
            "load",
            [
                given("x", x, "FP32", binary=binary_in),
                given("time", times, "INT64", binary=binary_in),
            ],
            outputs=[wanted("mean", binary=binary_out), wanted("quantiles", binary=binary_out)],
            request_id="mine",
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
        assert answer.get_response()["id"] == "mine"
        mean, quantiles = answer.as_numpy("mean"), answer.as_numpy("quantiles")
        assert mean.shape == (2, 1, 3)
        assert quantiles.shape == (2, 1, 3, 3)
    async with serving() as plain:
        body = {"instances": [{"start": "2016-08-22", "observations": x[1].tolist()}]}
        expected = (await plain.post("/v1/models/load/predict", json=body)).json()
        np.testing.assert_allclose(mean[1, 0], expected["predictions"][0]["mean"], rtol=1e-5)


async def test_every_step_is_answered_where_that_is_asked(models):
    async with triton_client(models) as call:
        x = np.zeros((1, 4, 2), np.float32)
        times = START_S + 86_400 * np.arange(4)[None]
        inputs = [given("x", x, "FP32"), given("time", times, "INT64")]
        answer = await call("infer", "load", inputs, parameters={"emit": "all"})
        assert answer.as_numpy("mean").shape == (1, 4, 3)
        with pytest.raises(InferenceServerException, match="apart"):
            await call("infer", "load", [inputs[0], given("time", times * 2, "INT64")])


@pytest.mark.parametrize("binary", [True, False])
async def test_text_goes_as_bytes(models, binary):
    async with triton_client(models) as call:
        texts = np.array([["a wonderful film"], ["정말 최고다"]], object)
        answer = await call("infer", "mood", [given("text", texts, "BYTES", binary=binary)])
        probabilities = answer.as_numpy("probabilities")
    assert probabilities.shape == (2, 2)
    async with serving() as plain:
        body = {"instances": [{"text": text} for [text] in texts]}
        expected = (await plain.post("/v1/models/mood/predict", json=body)).json()["predictions"]
    for row, each in zip(probabilities, expected, strict=True):
        np.testing.assert_allclose(row, list(each["probabilities"].values()), rtol=1e-5)


@pytest.mark.parametrize("sequence_id", [5, "five", "5"])
async def test_a_sequence_carries_its_state(models, sequence_id):
    async with triton_client(models) as call:
        for at, expected in enumerate(leaky(XS)):
            answer = await call(
                "infer",
                "leaky",
                [given("x", XS[at : at + 1])],
                sequence_id=sequence_id,
                sequence_start=at == 0,
                sequence_end=at == len(XS) - 1,
            )
            np.testing.assert_array_equal(answer.as_numpy("y")[0], expected)
        with pytest.raises(InferenceServerException, match="must specify the START flag") as told:
            await call("infer", "leaky", [given("x", XS[:1])], sequence_id=sequence_id)
        assert told.value.status() == "400"


async def test_the_number_and_the_string_are_two_sequences_and_models_do_not_share(models):
    async with triton_client(models) as call:
        x = [given("x", XS[:1])]
        await call("infer", "leaky", x, sequence_id=5, sequence_start=True)
        with pytest.raises(InferenceServerException, match="START flag"):
            await call("infer", "leaky", x, sequence_id="5")
        texts = [given("text", np.array([["a film"]], object), "BYTES")]
        with pytest.raises(InferenceServerException, match="START flag"):
            await call("infer", "mood", texts, sequence_id=5)


@pytest.mark.parametrize("way", ["restart", "409"])
async def test_a_start_on_a_sequence_that_goes_on(models, way):
    async with triton_client(models, v2_start=way) as call:
        first, other = [given("x", XS[:1])], [given("x", XS[1:2])]
        options = {"sequence_id": 7, "sequence_start": True}
        await call("infer", "leaky", first, **options)
        await call("infer", "leaky", other, sequence_id=7)
        if way == "restart":
            answer = await call("infer", "leaky", first, **options)
            np.testing.assert_array_equal(answer.as_numpy("y")[0], leaky(XS[:1])[0])
            answer = await call("infer", "leaky", other, sequence_id=7)
            np.testing.assert_array_equal(answer.as_numpy("y")[0], leaky(XS[:2])[1])
        else:
            with pytest.raises(InferenceServerException, match="is open") as told:
                await call("infer", "leaky", other, **options)
            assert told.value.status() == "409"


async def test_with_its_step_a_request_of_a_sequence_is_applied_once(models):
    async with triton_client(models) as call:

        def send(at, **flags):
            return call(
                "infer", "leaky", [given("x", XS[at : at + 1])], sequence_id=9,
                parameters={"sequence_step": at}, **flags,
            )  # fmt: skip

        for at, expected in enumerate(leaky(XS[:3])):
            flags = {"sequence_start": at == 0, "sequence_end": at == 2}
            for _ in range(2):
                answer = await send(at, **flags)
                np.testing.assert_array_equal(answer.as_numpy("y")[0], expected)
                assert answer.get_response()["parameters"]["sequence_step"] == at + 1


async def test_a_sequence_that_starts_and_ends_at_once_leaves_nothing(models):
    async with triton_client(models) as call:
        flags = {"sequence_id": 3, "sequence_start": True, "sequence_end": True}
        answer = await call("infer", "leaky", [given("x", XS[:1])], **flags)
        np.testing.assert_array_equal(answer.as_numpy("y")[0], leaky(XS[:1])[0])
        with pytest.raises(InferenceServerException, match="START flag"):
            await call("infer", "leaky", [given("x", XS[:1])], sequence_id=3)


async def test_statistics_count_what_was_inferred(models):
    async with triton_client(models) as call:
        for _ in range(3):
            await call("infer", "leaky", [given("x", XS)])
        with pytest.raises(InferenceServerException):
            await call("infer", "leaky", [given("x", XS[:, :2])])
        [stats] = (await call("get_inference_statistics", "leaky"))["model_stats"]
        assert stats["inference_count"] == 18
        assert stats["inference_stats"]["success"]["count"] == 3
        assert stats["inference_stats"]["fail"]["count"] == 1
        assert stats["inference_stats"]["compute_infer"]["ns"] > 0
        every = (await call("get_inference_statistics"))["model_stats"]
        assert {(each["name"], each["version"]) for each in every} >= {
            ("leaky", "1"), ("load", "1"), ("load", "2"), ("mood", "1"),
        }  # fmt: skip


async def test_what_is_not_supported_is_501(models):
    async with triton_client(models) as call:
        for name in ("get_trace_settings", "get_log_settings", "get_system_shared_memory_status"):
            with pytest.raises(InferenceServerException) as told:
                await call(name)
            assert told.value.status() == "501"


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([given("x", XS, "FP16")._get_tensor() | {"datatype": "FP32"}], "expected FP16"),
        ([{"name": "z", "shape": [1], "datatype": "FP16", "data": [1]}], "unexpected inference"),
        ([{"name": "x", "shape": [1, 2], "datatype": "FP16", "data": [1, 2]}], "has shape"),
        ([{"name": "x", "shape": [1, 3], "datatype": "FP16", "data": [1, 2]}], "2 values"),
        ([], "expected inputs"),
    ],
)
async def test_what_does_not_fit_is_400_in_the_form_of_the_protocol(models, inputs, told):
    async with serving(models=models) as client:
        answer = await client.post("/v2/models/leaky/infer", json={"inputs": inputs})
        assert answer.status_code == 400, answer.text
        assert list(answer.json()) == ["error"]
        assert told in answer.json()["error"] or "left" in answer.json()["error"]


async def test_every_error_has_the_form_of_the_protocol(models):
    async with serving(models=models) as client:
        for path, status in (
            ("/v2/models/nothing", 404), ("/v2/nowhere", 404), ("/v2/models/load/versions/9", 404),
        ):  # fmt: skip
            answer = await client.get(path)
            assert answer.status_code == status
            assert list(answer.json()) == ["error"]
        for sent in (b"{", b"[]", b'{"inputs": 1}', b"\xff"):
            answer = await client.post("/v2/models/leaky/infer", content=sent)
            assert answer.status_code == 400
            assert list(answer.json()) == ["error"]


async def test_a_body_that_unfolds_without_end_is_refused(models):
    import gzip

    bomb = gzip.compress(b"\0" * 2**24)
    async with serving(models=models, max_body_bytes=2**20) as client:
        headers = {"Content-Encoding": "gzip"}
        answer = await client.post("/v2/models/leaky/infer", content=bomb, headers=headers)
        assert answer.status_code == 413
        headers = {"Content-Encoding": "br"}
        answer = await client.post("/v2/models/leaky/infer", content=b"x", headers=headers)
        assert answer.status_code == 415
