"""Models, health, metrics, limits, the OpenAPI document."""

import shutil

import pytest

from service.api.codec import schemas
from service.engine.models import first_load
from tests.api.support import serving, small_folder

HISTORY = {"start": "2016-08-22", "observations": [[1, 2], [3, 4]]}
STEP = {"observations": [[5, 6]]}


async def test_models_are_listed_with_their_versions(client):
    answer = (await client.get("/v1/models")).json()
    assert answer["refused"] == {}
    assert [(m["name"], m["default_version"], m["versions"]) for m in answer["models"]] == [
        ("load", "2", ["1", "2"]),
        ("mood", "1", ["1"]),
        ("phase", "1", ["1"]),
        ("verse", "1", ["1"]),
    ]


async def test_a_model_tells_what_it_reads_and_how_it_is_doing(client):
    body = {"instances": [{"text": "a"}, {"text": "b"}]}
    await client.post("/v1/models/mood/predict", json=body)
    mood = (await client.get("/v1/models/mood")).json()
    assert mood["labels"] == ["negative", "positive"]
    assert mood["live"]["predictions"] == 2
    assert mood["live"]["mean_batch_rows"] >= 1
    load = (await client.get("/v1/models/load/versions/1")).json()
    assert [column["name"] for column in load["columns"]] == ["load", "temp"]
    assert (load["needs_start"], load["provider"]) == (True, "cpu")


async def test_a_refused_bundle_is_named_with_its_reason(tmp_path):
    folder = tmp_path / "models"
    shutil.copytree(small_folder(), folder)
    (folder / "mood" / "1" / "tokenizer.json").write_text("{}")
    async with serving(models=folder) as client:
        answer = (await client.get("/v1/models")).json()
        assert "tokenizer.json: expected SHA-256" in answer["refused"]["mood/1"]
        assert [model["name"] for model in answer["models"]] == ["load", "phase", "verse"]
        assert (await client.get("/readyz")).status_code == 200
        assert "carry_bundles_refused 1.0" in (await client.get("/metrics")).text


async def test_health_and_readiness(client):
    assert (await client.get("/healthz")).json() == {"status": "alive"}
    ready = (await client.get("/readyz")).json()
    assert ready == {"status": "ready", "models": 5, "provider": "cpu", "durability": "none"}
    client.app.context.engine.is_draining = True
    draining = await client.get("/readyz")
    assert (draining.status_code, draining.headers["retry-after"]) == (503, "1")
    assert "shutting down" in draining.json()["detail"]


async def test_no_model_is_not_ready(tmp_path):
    async with serving(models=tmp_path) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert "no model is loaded" in answer.json()["detail"]


async def test_metrics_count_what_happened(client):
    body = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}
    await client.post("/v1/sessions", json=body)
    await client.post("/v1/sessions/s/steps", json={"observations": [[1, 2], [3, 4]]})
    await client.post("/v1/sessions/s/steps", json={"step": 9, "observations": [[1, 2]]})
    await client.delete("/v1/sessions/s")
    text = (await client.get("/metrics")).text
    for line in (
        'carry_steps_total{model="load",version="1"} 2.0',
        'carry_sessions_created_total{model="load",version="1"} 1.0',
        'carry_sessions_ended_total{model="load",reason="deleted",version="1"} 1.0',
        'route="/v1/sessions/{session}/steps",status="409"} 1.0',
        'carry_model_loaded{model="load",provider="cpu",version="1"} 1.0',
        'carry_queue_depth{model="load",version="1"} 0.0',
        "carry_sessions_cached 0.0",
    ):
        assert line in text


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_body_over_the_limit_is_413(is_announced):
    async def chunks():
        for _ in range(8):
            yield b"[" * 512

    async with serving(max_body_bytes=1024) as client:
        content = b"[" * 4096 if is_announced else chunks()
        headers = {"content-type": "application/json"}
        answer = await client.post("/v1/sessions", content=content, headers=headers)
        assert answer.status_code == 413
        assert "larger than 1024 bytes" in answer.json()["detail"]
        assert answer.json()["type"] == "urn:carry:too-large"


async def test_unknown_paths_and_methods_are_problems(client):
    assert (await client.get("/v1/nothing")).json()["type"] == "urn:carry:not-found"
    wrong = await client.put("/v1/sessions", json={})
    assert (wrong.status_code, wrong.json()["type"]) == (405, "urn:carry:method-not-allowed")
    assert wrong.headers["allow"] == "GET, HEAD, POST"


async def test_a_post_where_nothing_takes_one_is_no_matter_of_its_content_type(client):
    assert (await client.post("/v1/models", content=b"x")).status_code == 405
    assert (await client.post("/v1/nothing", content=b"x")).status_code == 404
    for path in ("/v1/sessions", "/v1/sessions/s/steps"):
        assert (await client.post(path, content=b"x")).status_code == 415


async def test_an_unexpected_error_tells_nothing_of_the_server(client, monkeypatch):
    def explode(*_):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(type(client.app.context.engine.registry), "all", explode)
    answer = await client.get("/v1/models")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


async def test_an_odd_method_makes_no_series_of_its_own(client):
    assert (await client.request("BREW", "/v1/models")).status_code == 405
    text = (await client.get("/metrics")).text
    assert "BREW" not in text
    assert 'method="other"' in text


async def test_a_bundle_that_cannot_be_read_shows_no_path(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "/srv/secret/model.onnx")

    monkeypatch.setattr(first_load, "read_bundle", refuse)
    async with serving() as client:
        refused = (await client.get("/v1/models")).json()["refused"]
        assert refused["mood/1"] == "cannot be read: Permission denied"


async def test_every_answer_fits_its_documented_schema(client):
    """The schemas and what is written by hand beside them must not drift apart."""
    create = {"model": "load", "session": "s", "history": HISTORY}
    answers = [
        (schemas.SessionAnswer, await client.post("/v1/sessions", json=create)),
        (schemas.StepAnswer, await client.post("/v1/sessions/s/steps", json=STEP)),
        (schemas.StepAnswer, await client.post("/v1/sessions/s/preview", json=STEP)),
        (schemas.SessionDetail, await client.get("/v1/sessions/s")),
        (schemas.SessionPage, await client.get("/v1/sessions")),
        (schemas.ModelList, await client.get("/v1/models")),
        (schemas.ModelDetail, await client.get("/v1/models/load")),
        (
            schemas.PredictAnswer,
            await client.post(
                "/v1/models/load/predict", json={"instances": [HISTORY | {"id": "a"}]}
            ),
        ),
        (schemas.Problem, await client.get("/v1/sessions/nobody")),
        (schemas.Problem, await client.post("/v1/sessions", json={})),
        (schemas.Problem, await client.post("/v1/sessions/s/steps", json=STEP | {"step": 99})),
    ]
    for schema, answer in answers:
        schema.model_validate(answer.json(), extra="forbid")


async def test_the_root_leads_to_the_documentation(client):
    assert (await client.get("/")).headers["location"] == "/docs"
    assert (await client.get("/docs")).status_code == 200


async def test_every_operation_is_documented_with_its_errors(client):
    document = (await client.get("/openapi.json")).json()
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(operations) >= 13
    for path, method, operation in operations:
        assert operation["summary"], path
        assert operation["description"], path
        if method == "post":
            assert operation["requestBody"]["content"]["application/json"]["examples"], path
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                says = "application/json" if path.startswith("/v2") else "application/problem+json"
                assert list(response["content"]) == [says], (path, status)
    for reference in set(str(document).split("'$ref': '")[1:]):
        _, components, kind, name = reference.split("'")[0].split("/")
        assert name in document[components][kind]
