"""A real graph that others made, brought along with no code: Silero's voice activity detector.

Fed as its own package feeds it, 64 streams at a time, it must answer what the package's loop
answers, each stream alone.
"""

import asyncio
import json
import subprocess
import wave
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from service.api.v2.body import HEADER
from service.contract.calls import Calls
from service.engine.models.registry import load_registry
from tests.api.support import serving
from tests.system import require_program
from tests.training.foreign.importing import import_onnx

RATE, CHUNK, OVERLAP, NUM_STREAMS = 16_000, 512, 64, 64
TOLERANCE = 1e-4
SAID = "The quick brown fox jumps over the lazy dog. Streams of speech, one chunk at a time."


def graph_of(name: str) -> Path:
    return Path(str(files("silero_vad") / "data" / name))


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Three seconds and more of speech in noise, `[T, 512]`, with silence before and after."""
    path = tmp_path_factory.mktemp("speech") / "said.wav"
    program = require_program("espeak-ng", package="espeak-ng")
    subprocess.run([program, "-w", str(path), SAID], check=True)
    with wave.open(str(path)) as file:
        rate, data = file.getframerate(), file.readframes(file.getnframes())
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    at = np.arange(0, len(samples), rate / RATE)
    samples = np.interp(at, np.arange(len(samples)), samples)
    silence = np.zeros(RATE // 2)
    samples = np.concatenate([silence, samples, silence])
    samples += np.random.default_rng(0).normal(0, 0.005, len(samples))
    num_chunks = len(samples) // CHUNK
    return samples[: num_chunks * CHUNK].astype(np.float32).reshape(num_chunks, CHUNK)


def own_loop(chunks, name):
    """The package's own wrapper around ONNX Runtime, one stream alone."""
    torch = pytest.importorskip("torch")
    from silero_vad.utils_vad import OnnxWrapper

    with pytest.warns(UserWarning, match="only 16000") if "16k" in name else np.errstate():
        detector = OnnxWrapper(str(graph_of(name)), force_onnx_cpu=True)
    return [float(detector(torch.from_numpy(chunk), RATE)[0, 0]) for chunk in chunks]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    free = ["--size", "sequence=576", "--constant", f"sr={RATE}"]
    graphs = {"vad": "silero_vad_16k_op15.onnx", "ifless": "silero_vad_op18_ifless.onnx"}
    for name, graph in graphs.items():
        import_onnx(
            graph_of(graph), "--name", name, "--overlap", str(OVERLAP), *free, models=folder
        )
    import_onnx(graph_of("silero_vad_16k_op15.onnx"), "--name", "plain", *free, models=folder)
    import_onnx(
        graph_of("silero_vad_16k_sequence.onnx"), "--name", "sequence", "--overlap", str(OVERLAP),
        "--time", "sequence_length", models=folder,
    )  # fmt: skip
    return folder


def stream_of(speech, index, num_chunks=48):
    """A stream of its own: from elsewhere in the recording, and of another loudness."""
    rolled = np.roll(speech, -3 * index, axis=0)[:num_chunks]
    return rolled * np.float32(0.4 + 0.02 * index)


async def heard(client, session, inputs):
    probabilities = []
    for step, values in enumerate(inputs):
        body = {"step": step, "tensors": {"input": values.tolist()}}
        answer = await client.post(f"/v1/sessions/{session}/steps", json=body)
        assert answer.status_code == 200, answer.text
        probabilities.append(answer.json()["prediction"]["tensors"]["output"]["data"][0])
    return probabilities


async def inferred(client, model, values, output="output", **parameters):
    """One request of the Open Inference Protocol, binary both ways."""
    tensor = {"name": "input", "datatype": "FP32", "shape": list(values.shape)}
    tensor["parameters"] = {"binary_data_size": values.nbytes}
    wanted = {"name": output, "parameters": {"binary_data": True}}
    body = json.dumps({"inputs": [tensor], "outputs": [wanted], "parameters": parameters}).encode()
    answer = await client.post(
        f"/v2/models/{model}/infer",
        content=body + values.astype("<f4").tobytes(),
        headers={HEADER: str(len(body))},
    )
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content[int(answer.headers[HEADER]) :], "<f4")


async def heard_by_v2(client, model, sequence, chunks):
    probabilities = []
    for step, values in enumerate(chunks):
        flags = {"sequence_start": step == 0, "sequence_end": step == len(chunks) - 1}
        told = await inferred(
            client, model, values[None], sequence_id=sequence, sequence_step=step, **flags
        )
        probabilities.append(float(told[0]))
    return probabilities


@pytest.fixture(scope="module")
def expected_of(speech):
    """What the package's own loop hears in each of the 64 streams, by its graph."""

    @cache
    def run(graph):
        return [own_loop(stream_of(speech, index), graph) for index in range(NUM_STREAMS)]

    return run


@pytest.mark.parametrize(
    ("model", "graph", "door"),
    [
        ("vad", "silero_vad_16k_op15.onnx", "sessions"),
        ("vad", "silero_vad_16k_op15.onnx", "v2"),
        ("ifless", "silero_vad_op18_ifless.onnx", "sessions"),
    ],
)
async def test_64_streams_in_batches_hear_what_the_package_hears(
    models, speech, expected_of, model, graph, door
):
    streams = [stream_of(speech, index) for index in range(NUM_STREAMS)]
    async with serving(models=models, max_queue_s=3600) as client:
        hearing = []
        for index, chunks in enumerate(streams):
            if door == "v2":
                sequence = f"microphone {index}" if index % 2 else index + 1
                hearing.append(heard_by_v2(client, model, sequence, chunks))
                continue
            body = {"model": model, "session": f"s{index}"}
            assert (await client.post("/v1/sessions", json=body)).status_code == 201
            hearing.append(heard(client, f"s{index}", chunks))
        found = await asyncio.gather(*hearing)
        live = (await client.get(f"/v1/models/{model}")).json()["live"]
    assert live["mean_batch_rows"] > 4, "they were to be run together"
    expected = expected_of(graph)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    assert np.ptp(expected) > 0.5, "there is speech and silence in it"


async def test_without_overlap_the_client_repeats_the_samples_itself(models, speech):
    chunks = stream_of(speech, 0)
    before = np.concatenate([np.zeros((1, OVERLAP), np.float32), chunks[:-1, -OVERLAP:]])
    async with serving(models=models) as client:
        await client.post("/v1/sessions", json={"model": "plain", "session": "s"})
        found = await heard(client, "s", np.concatenate([before, chunks], axis=1))
    expected = own_loop(chunks, "silero_vad_16k_op15.onnx")
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


async def test_a_graph_of_one_row_with_steps_and_two_states_hears_the_same(models, speech):
    """`h` and `c` apart, rows on no axis, steps on the first one."""
    spec = load_registry(models, "cpu", 1).get("sequence").manifest.graph
    assert [state.input for state in spec.states] == ["h", "c"]
    assert not spec.takes_rows
    assert spec.takes_steps
    chunks = stream_of(speech, 5)
    async with serving(models=models) as client:
        await client.post("/v1/sessions", json={"model": "sequence", "session": "s"})
        found = []
        for start, end in ((0, 1), (1, 8), (8, 48)):
            body = {"tensors": {"input": chunks[start:end].tolist()}, "emit": "all"}
            answer = await client.post("/v1/sessions/s/steps", json=body)
            found += [
                each["tensors"]["speech_probs"]["data"][0] for each in answer.json()["predictions"]
            ]
        by_v2 = []
        for start, end in ((0, 1), (1, 8), (8, 48)):
            flags = {"sequence_start": start == 0, "sequence_end": end == 48}
            told = await inferred(
                client, "sequence", chunks[start:end], "speech_probs", sequence_id="s", **flags
            )
            by_v2 += told.tolist()
    np.testing.assert_allclose(by_v2, found, atol=1e-6)
    expected = own_loop(chunks, "silero_vad_16k_op15.onnx")
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_overlap_is_kept_whatever_the_pieces(models, speech):
    model = load_registry(models, "cpu", 1).get("sequence")
    calls, chunks = Calls(model.manifest.graph, model.layout), stream_of(speech, 1)[:9]
    whole, [row] = calls.run_all(
        model.runner.call, {"input": chunks[None]}, np.array([9]), [model.layout.initial_row]
    )
    rows = [model.layout.initial_row]
    parts = []
    for piece in (chunks[:2], chunks[2:3], chunks[3:]):
        outputs, rows = calls.run_all(
            model.runner.call, {"input": piece[None]}, np.array([len(piece)]), rows
        )
        parts.append(outputs["speech_probs"])
    joined = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(joined, whole["speech_probs"], atol=1e-5)
    last = model.layout.gather(rows)["overlap:input"]
    np.testing.assert_array_equal(last.reshape(-1), chunks[-1, -OVERLAP:])
    assert rows[0][-OVERLAP * 4 :] == row[-OVERLAP * 4 :]
