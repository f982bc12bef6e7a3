"""A sequence of `/v2` stays with its version, through loads and unloads."""

import pytest

from service.contract.bundle import read_bundle, write_bundle
from tests.api.support import serving, until
from tests.fakes.bundles import DAY_S, write_forecaster, write_tagger

START_S = 1_471_824_000
GRACE = {"models_poll_s": 0, "unload_grace_s": 3600}
NO_GRACE = {"models_poll_s": 0, "unload_grace_s": 0}
START = "must specify the START flag"


@pytest.fixture
def models(tmp_path):
    write_forecaster(tmp_path)
    return tmp_path


def write_other(models):
    """Version 2, which answers less and reads no time."""
    write_forecaster(models, version="2", seed=2, horizon=2, uses_time=False)


async def word(client, what, version=None):
    body = {} if version is None else {"parameters": {"version": version}}
    answer = await client.post(f"/v2/repository/models/load/{what}", json=body)
    assert answer.status_code == 200, answer.text


def body_of(step, sequence_id=5, *, with_time=True, num_steps=1, outputs=None, **parameters):
    values = [float(step + at) for at in range(num_steps * 2)]
    times = [START_S + DAY_S * (step + at) for at in range(num_steps)]
    inputs = [{"name": "x", "shape": [1, num_steps, 2], "datatype": "FP32", "data": values}]
    if with_time:
        inputs += [{"name": "time", "shape": [1, num_steps], "datatype": "INT64", "data": times}]
    told = {"sequence_id": sequence_id, "sequence_start": step == 0, "sequence_step": step}
    return {"inputs": inputs, "parameters": told | parameters, "outputs": outputs}


async def infer(client, body, version=None, *, refused=None):
    """The answer, or the reason of a refusal that is expected."""
    path = "" if version is None else f"/versions/{version}"
    answer = await client.post(f"/v2/models/load{path}/infer", json=body)
    assert answer.status_code == (refused or 200), answer.text
    return answer.json()["error"] if refused else answer.json()


def shapes(answer):
    return {each["name"]: each["shape"] for each in answer["outputs"]}


async def test_a_sequence_goes_on_with_its_version_though_a_newer_one_is_loaded(models):
    async with serving(models=models, **GRACE) as client:
        expected = [(await infer(client, body_of(at, 6)))["outputs"] for at in range(4)]
        assert (await infer(client, body_of(0)))["outputs"] == expected[0]
        write_other(models)
        await word(client, "load")
        for at, path in ((1, None), (2, "1"), (3, None)):
            answer = await infer(client, body_of(at), path)
            assert (answer["model_version"], answer["outputs"]) == ("1", expected[at])
        answer = await infer(client, body_of(0, 7, with_time=False))
        assert (answer["model_version"], shapes(answer)["mean"]) == ("2", [1, 1, 2])
        stats = (await client.get("/v2/models/load/versions/1/stats")).json()["model_stats"]
        assert stats[0]["inference_stats"]["success"]["count"] == 8


async def test_a_start_begins_anew_with_the_newest_version(models):
    async with serving(models=models, **GRACE) as client:
        await infer(client, body_of(0))
        write_other(models)
        await word(client, "load")
        body = body_of(0, with_time=False, sequence_step=None)
        for each in (body, body_of(1, with_time=False)):
            answer = await infer(client, each)
            assert (answer["model_version"], shapes(answer)["mean"]) == ("2", [1, 1, 2])


async def test_a_request_that_asks_for_another_version_than_the_sequences_is_refused(models):
    write_other(models)
    async with serving(models=models, **GRACE) as client:
        await infer(client, body_of(0), "1")
        told = await infer(client, body_of(1), "2", refused=400)
        assert "was started with version 1, the request asks for version 2" in told
        await infer(client, body_of(1), "9", refused=404)
        assert (await infer(client, body_of(1)))["parameters"]["sequence_step"] == 2


@pytest.mark.parametrize("path", [None, "1"])
@pytest.mark.parametrize("unloaded", [None, "1"])
async def test_a_sequence_is_stepped_for_the_grace_of_its_model(models, path, unloaded):
    if unloaded:
        write_other(models)
    async with serving(models=models, **GRACE) as client:
        await infer(client, body_of(0), "1")
        await word(client, "unload", unloaded)
        answer = await infer(client, body_of(1), path)
        assert (answer["model_version"], shapes(answer)["mean"]) == ("1", [1, 1, 3])
        assert START in await infer(client, body_of(1, 9), path, refused=400)
        for begins in (body_of(0, 8), body_of(1, 0)):
            told = await infer(client, begins, "1", refused=404)
            assert "'load'" in told
        await word(client, "load")
        assert (await infer(client, body_of(2), path))["model_version"] == "1"


async def test_after_the_grace_a_sequence_is_refused_and_one_that_is_over_may_start(models):
    write_other(models)
    async with serving(models=models, **NO_GRACE) as client:
        for each in (5, 6):
            await infer(client, body_of(0, each), "1")
        await infer(client, body_of(1, 6, sequence_end=True))
        await word(client, "unload", "1")
        registry = client.app.context.engine.registry
        await until(lambda: not registry.retiring and not registry.leaving)
        assert "version 1, which is not loaded" in await infer(client, body_of(1), refused=409)
        assert START in await infer(client, body_of(2, 6), refused=400)
        await word(client, "unload")
        await until(lambda: not registry.retiring and not registry.leaving)
        await infer(client, body_of(1), refused=404)


async def test_a_start_that_is_repeated_after_a_load_is_answered_as_it_was(models):
    """What has answered says what the bytes mean, whichever version has read the request."""
    write_forecaster(models, uses_time=False)
    async with serving(models=models, **GRACE) as client:
        body = body_of(0, with_time=False)
        first = await infer(client, body)
        write_tagger(models / "other")
        bundle = read_bundle(models / "other" / "phase" / "1")
        tagger = bundle.manifest.model_copy(update={"name": "load", "version": "2"})
        write_bundle(models / "load" / "2", tagger, bundle.files)
        await word(client, "load")
        assert await infer(client, body) == first
        told = await infer(client, body | {"outputs": [{"name": "probabilities"}]}, refused=400)
        assert "expected some of ['mean', 'quantiles']" in told
        assert shapes(await infer(client, body_of(0, 6, with_time=False))).keys() == {
            "probabilities"
        }


@pytest.mark.parametrize("path", [None, "2"])
async def test_a_sequence_that_another_replica_began_anew_is_not_taken_for_the_one_before(
    models, tmp_path, path
):
    store = f"sqlite:///{tmp_path / 'carry.db'}"
    write_other(models)
    async with (
        serving(models=models, store=store, **GRACE) as one,
        serving(models=models, store=store, **GRACE) as two,
    ):
        await infer(one, body_of(0), "1")
        await infer(one, body_of(1))
        await infer(two, body_of(0, with_time=False, sequence_step=None), "2")
        answer = await infer(one, body_of(1, with_time=False), path)
        assert (answer["model_version"], shapes(answer)["mean"]) == ("2", [1, 1, 2])


async def test_a_big_body_is_read_as_its_version_reads_it(models, monkeypatch):
    async with serving(models=models, **GRACE) as client:
        await infer(client, body_of(0))
        write_other(models)
        await word(client, "load")
        reader = client.app.context.reader
        calls, call = [], reader.call

        async def noted(*args):
            calls.append(args)
            return await call(*args)

        monkeypatch.setattr(reader, "call", noted)
        answer = await infer(client, body_of(1, num_steps=20_000))
        assert len(calls) == 2  # for whose it is, and for its tensors
        assert answer["parameters"]["sequence_step"] == 20_001
        assert shapes(answer)["mean"] == [1, 1, 3]
