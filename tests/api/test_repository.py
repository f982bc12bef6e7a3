"""Models are loaded and unloaded while serving, through Triton's own client, unchanged."""

from contextlib import contextmanager

import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.api.support import listening_apart, serving, until
from tests.fakes.bundles import write_classifier, write_forecaster

OPEN = {"model": "load", "session": "s", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}


@pytest.fixture
def models(tmp_path):
    write_forecaster(tmp_path)
    write_classifier(tmp_path)
    return tmp_path


@contextmanager
def triton_client(models, **settings):
    """Triton's client, and a plain one."""
    with listening_apart(models=models, **settings) as http:
        client = triton.InferenceServerClient(http.base_url.netloc.decode())
        try:
            yield client, http
        finally:
            client.close()


def states(index):
    return {f"{each['name']}/{each['version']}": each["state"] for each in index}


def test_a_model_is_unloaded_and_loaded_by_its_client(models):
    with triton_client(models, models_poll_s=0) as (client, http):
        assert "model_repository" in client.get_server_metadata()["extensions"]
        ready = {"name": "load", "version": "1", "state": "READY", "reason": ""}
        assert ready in client.get_model_repository_index()
        http.post("/v1/sessions", json=OPEN).raise_for_status()
        client.unload_model("load")
        assert not client.is_model_ready("load")
        assert client.is_model_ready("mood")
        [told] = [each for each in client.get_model_repository_index() if each["name"] == "load"]
        assert (told["state"], "may be stepped" in told["reason"]) == ("UNLOADING", True)
        assert http.post("/v1/sessions/s/steps", json=STEP).status_code == 200
        assert http.post("/v1/sessions", json=OPEN | {"session": "new"}).status_code == 404
        client.load_model("load")
        assert client.is_model_ready("load", "1")
        assert ready in client.get_model_repository_index()
        assert http.post("/v1/sessions/s/steps", json=STEP).json()["step"] == 2


def test_a_new_version_is_loaded_by_its_client_and_becomes_the_default(models):
    with triton_client(models, models_poll_s=0) as (client, http):
        http.post("/v1/sessions", json=OPEN).raise_for_status()
        write_forecaster(models, version="2", seed=2)
        assert not client.is_model_ready("load", "2")
        client.load_model("load")
        assert client.get_model_metadata("load")["versions"] == ["1", "2"]
        told = http.post("/v1/sessions", json=OPEN | {"session": "new"}).json()
        assert told["version"] == "2"
        assert http.get("/v1/sessions/s").json()["version"] == "1"
        assert http.post("/v1/sessions/s/steps", json=STEP).json()["step"] == 1


def test_nothing_but_the_folder_gives_a_model(models):
    with triton_client(models) as (client, _):
        for files in (None, {"file:1/model.onnx": b"x"}):
            with pytest.raises(InferenceServerException, match="read from the folder"):
                client.load_model("load", config="{}", files=files)


async def test_parameters_that_are_not_known_are_refused(models):
    async with serving(models=models) as client:
        for body in (
            {"parameters": {"file:1/model.onnx": "eA=="}},
            {"parameters": {"version": 1}},
            {"parameters": []},
            [],
        ):
            for what in ("load", "unload"):
                url = f"/v2/repository/models/load/{what}"
                told = await client.post(url, json=body)
                assert (told.status_code, list(told.json())) == (400, ["error"])
        told = await client.post("/v2/repository/models/load/load", content=b"{")
        assert told.status_code == 400
        assert states((await client.post("/v2/repository/index")).json())["load/1"] == "READY"


@pytest.mark.parametrize("name", ["nothing", "..", "%2e%2e", "..%2fmood", "%2e%2e%2f%2e%2e%2fetc"])
async def test_a_name_that_is_none_is_not_found(models, name):
    async with serving(models=models / "load" / "..") as client:
        for what in ("load", "unload"):
            told = await client.post(f"/v2/repository/models/{name}/{what}")
            assert told.status_code == 404, told.text


async def test_a_link_that_leads_nowhere_is_the_matter_of_its_own_bundle(models):
    async with serving(models=models, models_poll_s=0) as client:
        (models / "load" / "1" / "notes.txt").symlink_to("nowhere")
        assert (await client.post("/v2/repository/models/mood/load")).status_code == 200
        told = await client.post("/v2/repository/models/load/load")
        assert told.status_code == 400
        assert "load/1/notes.txt: expected plain files only" in told.json()["error"]


async def test_a_bundle_that_is_refused_is_told_with_its_reason(models):
    graph = models / "load" / "1" / "model.onnx"
    async with serving(models=models, models_poll_s=0) as client:
        await client.post("/v2/repository/models/load/unload")
        whole = graph.read_bytes()
        graph.write_bytes(whole[:-1])
        told = await client.post("/v2/repository/models/load/load")
        assert told.status_code == 400
        assert "failed to load 'load': load/1/model.onnx: expected SHA-256" in told.json()["error"]
        assert str(models) not in told.text
        assert list((await client.get("/v1/models")).json()["refused"]) == ["load/1"]
        graph.write_bytes(whole)
        assert (await client.post("/v2/repository/models/load/load")).status_code == 200
        assert not (await client.get("/v1/models")).json()["refused"]


async def test_the_index_may_be_asked_for_what_is_ready_alone(models):
    async with serving(models=models) as client:
        await client.post("/v2/repository/models/load/unload")
        told = await client.post("/v2/repository/index", json={"ready": True})
        assert states(told.json()) == {"mood/1": "READY"}
        assert (await client.post("/v2/repository/index", json={"ready": 3})).status_code == 400


async def test_the_models_list_says_what_is_unloading_and_what_is_unloaded(models):
    async with serving(models=models, models_poll_s=0, unload_grace_s=3600) as client:
        await client.post("/v2/repository/models/load/unload")
        told = (await client.get("/v1/models")).json()
        assert [each["name"] for each in told["models"]] == ["mood"]
        assert (told["unloading"], told["unloaded"]) == (["load/1"], [])
        assert (await client.get("/readyz")).status_code == 200
        await client.post("/v2/repository/models/mood/unload")
        assert (await client.get("/readyz")).status_code == 200  # sessions may be stepped
    async with serving(models=models, models_poll_s=0, unload_grace_s=0) as client:
        await client.post("/v2/repository/models/load/unload")
        await until(lambda: not client.app.context.engine.registry.retiring)
        told = (await client.get("/v1/models")).json()
        assert (told["unloading"], told["unloaded"]) == ([], ["load/1"])
        assert told["refused"] == {}


async def test_the_watcher_finds_a_new_bundle_by_itself(models):
    async with serving(models=models, models_poll_s=0.01) as client:
        engine = client.app.context.engine
        write_forecaster(models, version="2", seed=2)
        await until(lambda: engine.registry.find("load", "2"))
        told = await client.post("/v1/sessions", json=OPEN)
        assert told.json()["version"] == "2"


async def test_figures_of_an_unloaded_model_are_gone(models):
    async with serving(models=models, models_poll_s=0, unload_grace_s=0) as client:
        await client.post("/v1/sessions", json=OPEN)
        await client.post("/v1/sessions/s/steps", json=STEP)
        assert 'model="load"' in (await client.get("/metrics")).text
        await client.post("/v2/repository/models/load/unload")
        registry = client.app.context.engine.registry
        await until(lambda: not registry.retiring and not registry.leaving)
        text = (await client.get("/metrics")).text
        assert 'model="load"' not in text
        assert 'carry_model_loaded{model="mood"' in text
        await client.post("/v2/repository/models/load/load")
        text = (await client.get("/metrics")).text
        assert 'carry_model_loaded{model="load",provider="cpu",version="1"} 1.0' in text
        assert 'carry_steps_total{model="load",version="1"} 0.0' in text


async def test_other_weights_of_one_number_are_described_as_they_are(models):
    """What is worked out once for a model does not outlive it."""
    async with serving(models=models, models_poll_s=0) as client:
        context = client.app.context
        before = context.view_of(context.engine.registry.get("load"))
        write_forecaster(models, seed=7, uses_time=False)
        await client.post("/v2/repository/models/load/load")
        after = context.view_of(context.engine.registry.get("load"))
        assert before.reads != after.reads
