"""What belongs to one tenant, tried by another one: every operation of the OpenAPI document.

An operation on a session of its path is tried by itself: the same 404 as for a name that nobody
has. Any other must say in `OTHERS` how it is kept apart; one that is in neither fails here, so that
no route comes along without an answer.
"""

import asyncio

import pyarrow as pa
import pytest

from service.api.auth.middleware import OPEN_PATHS
from service.api.sessions.bulk import ARROW
from service.app import create_app
from service.settings import Settings
from tests.api.keys import headers, keys_file
from tests.api.support import serving, small_folder

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}
INSTANCES = {"instances": [{"start": "2016-08-22", "observations": [[1, 2]]}]}

SHARED = "the same for every tenant, and of none"
OTHERS = {
    ("get", "/metrics"): SHARED,
    ("get", "/v1/models"): SHARED,
    ("get", "/v1/models/{model}"): SHARED,
    ("get", "/v1/models/{model}/versions/{version}"): SHARED,
    ("post", "/v1/models/{model}/predict"): SHARED,
    ("post", "/v1/models/{model}/versions/{version}/predict"): SHARED,
    ("post", "/v1/timeseries/forecast"): SHARED,
    ("get", "/v2/models/stats"): SHARED,
    **{
        ("get", f"/v2/models/{{model}}{version}{what}"): SHARED
        for version in ("", "/versions/{version}")
        for what in ("", "/ready", "/config", "/stats")
    },
    ("post", "/v2/models/{model}/infer"): "test_a_sequence_is_its_own_tenants",
    ("post", "/v2/models/{model}/versions/{version}/infer"): "test_a_sequence_is_its_own_tenants",
    **{
        (
            "post",
            f"/v2/models/{{model}}{version}/generate{end}",
        ): "test_a_writing_is_its_own_tenants"
        for version in ("", "/versions/{version}")
        for end in ("", "_stream")
    },
    ("post", "/v2/repository/index"): SHARED,
    ("post", "/v2/repository/models/{model}/load"): "test_users_load_and_unload_nothing",
    ("post", "/v2/repository/models/{model}/unload"): "test_users_load_and_unload_nothing",
    ("get", "/v1/sessions"): "test_lists_show_ones_own_only",
    ("post", "/v1/sessions"): "test_equal_names_of_two_tenants_never_meet",
    ("post", "/v1/steps"): "test_a_bulk_steps_ones_own_only",
    ("put", "/v1/sessions/{session}/snapshot"): "test_a_snapshot_restores_ones_own_only",
}
"""What does not end in 404 on somebody else's session: SHARED, or the test that tries it."""


def operations():
    app = create_app(Settings(models=small_folder(), store="memory://")).app
    asyncio.run(app.state.context.engine.store.close())
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


OPERATIONS = list(operations())
ON_SESSIONS = [each for each in OPERATIONS if "{session}" in each[1] and each[:2] not in OTHERS]


@pytest.fixture
async def world(tmp_path):
    """Ada, who has session `s` at step 1, and Bob, who has nothing."""
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    (tmp_path / "snapshot.keys").write_text("k" * 32)
    settings = {"api_keys_file": path, "snapshot_key_file": tmp_path / "snapshot.keys"}
    async with serving(**settings) as client:
        client.ada, client.bob = headers(keys["ada"]), headers(keys["bob"])
        opened = await client.post("/v1/sessions", json=OPEN, headers=client.ada)
        assert opened.status_code == 201
        stepped = await client.post("/v1/sessions/s/steps", json=STEP, headers=client.ada)
        assert stepped.status_code == 200
        yield client


def body_of(operation):
    """The first documented example of its JSON body; None where it takes no such body."""
    content = operation.get("requestBody", {}).get("content", {})
    for example in content.get("application/json", {}).get("examples", {}).values():
        return example["value"]
    return None


def test_every_operation_is_kept_apart_in_a_way_that_is_tried():
    found = {(method, path) for method, path, _ in OPERATIONS if path not in OPEN_PATHS}
    on_sessions = {(method, path) for method, path, _ in ON_SESSIONS}
    assert len(on_sessions) >= 4
    assert found - on_sessions == set(OTHERS)
    for how in OTHERS.values():
        assert how == SHARED or how in globals(), how


@pytest.mark.parametrize(
    ("method", "path", "operation"), ON_SESSIONS, ids=[f"{m} {p}" for m, p, _ in ON_SESSIONS]
)
async def test_the_session_of_another_tenant_is_not_found(world, method, path, operation):
    said = world.bob | {"X-Request-ID": "r"}
    url = path.replace("{session}", "s")
    told = await world.request(method, url, json=body_of(operation), headers=said)
    nobody = await world.request(
        method, path.replace("{session}", "none"), json=body_of(operation), headers=said
    )
    assert (told.status_code, told.json()["type"]) == (404, "urn:carry:session-not-found")
    assert told.json() | {"detail": ""} == nobody.json() | {"detail": ""}
    assert told.json()["detail"].replace("'s'", "'none'") == nobody.json()["detail"]
    kept = await world.get("/v1/sessions/s", headers=world.ada)
    assert (kept.status_code, kept.json()["step"]) == (200, 1)


async def test_lists_show_ones_own_only(world):
    for name in ("a", "z"):
        await world.post("/v1/sessions", json=OPEN | {"session": name}, headers=world.bob)
    for said, expected in ((world.ada, ["s"]), (world.bob, ["a", "z"])):
        for query in ({}, {"model": "load"}, {"cursor": ""}, {"limit": 1}):
            told = (await world.get("/v1/sessions", params=query, headers=said)).json()
            names = [each["session"] for each in told["sessions"]]
            assert names == expected[: query.get("limit", 9)]
            assert told["next_cursor"] in (None, "a")


async def test_equal_names_of_two_tenants_never_meet(world):
    opened = await world.post("/v1/sessions", json=OPEN, headers=world.bob)
    assert (opened.status_code, opened.json()["step"]) == (201, 0)
    resumed = OPEN | {"if_exists": "resume", "version": "2"}
    told = await world.post("/v1/sessions", json=resumed, headers=world.bob)
    assert told.json().get("step", 0) == 0
    for step in (0, 1, 2):
        body = STEP | {"step": step}
        assert (await world.post("/v1/sessions/s/steps", json=body, headers=world.bob)).is_success
    assert (await world.delete("/v1/sessions/s", headers=world.bob)).status_code == 204
    assert (await world.get("/v1/sessions/s", headers=world.ada)).json()["step"] == 1
    assert (await world.get("/v1/sessions/s", headers=world.bob)).status_code == 409


@pytest.mark.parametrize("what", ["load", "unload"])
async def test_models_are_loaded_and_unloaded_by_admins_alone(tmp_path, what):
    """They are of every tenant; whom else they belong to is asked of no other route."""
    file, keys = keys_file(tmp_path, ada="user", root="admin")
    url = f"/v2/repository/models/load/{what}"
    async with serving(api_keys_file=file) as client:
        for name in ("load", "nothing", "%2e%2e"):
            told = await client.post(
                url.replace("/load/", f"/{name}/", 1), headers=headers(keys["ada"])
            )
            assert (told.status_code, list(told.json())) == (403, ["error"])
        for said in ({}, headers("x" * 43)):
            assert (await client.post(url, headers=said)).status_code == 401
        index = (await client.post("/v2/repository/index", headers=headers(keys["ada"]))).json()
        assert {each["state"] for each in index} == {"READY"}
        assert (await client.post(url, headers=headers(keys["root"]))).status_code == 200


async def test_a_snapshot_restores_ones_own_only(world):
    kind = {"Content-Type": "application/vnd.carry.snapshot"}
    url = "/v1/sessions/s/snapshot"
    adas = (await world.get(url, headers=world.ada)).content
    told = await world.put(url, content=adas, headers=world.bob | kind)
    assert told.status_code == 403
    assert (await world.get("/v1/sessions/s", headers=world.bob)).status_code == 404
    await world.post("/v1/sessions", json=OPEN, headers=world.bob)
    bobs = (await world.get(url, headers=world.bob)).content
    restored = await world.put(url + "?replace=true", content=bobs, headers=world.bob | kind)
    assert restored.is_success
    assert (await world.get("/v1/sessions/s", headers=world.ada)).json()["step"] == 1


async def test_an_idempotency_key_means_its_own_tenants_session(world):
    body = {name: OPEN[name] for name in ("model", "version", "start")}
    told = [
        await world.post("/v1/sessions", json=body, headers=said | {"Idempotency-Key": "k"})
        for said in (world.ada, world.bob, world.ada)
    ]
    assert [each.status_code for each in told] == [201, 201, 201]
    assert [each.headers.get("idempotent-replayed") for each in told] == [None, None, "true"]


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_a_sequence_is_its_own_tenants(world, version):
    def asked(**flags):
        inputs = [
            {"name": "x", "datatype": "FP32", "shape": [1, 1, 2], "data": [1, 2]},
            {"name": "time", "datatype": "INT64", "shape": [1, 1], "data": [1_471_824_000]},
        ]
        return {"parameters": {"sequence_id": 7} | flags, "inputs": inputs[: 1 + len(flags)]}

    url = f"/v2/models/load{version}/infer"
    started = await world.post(url, json=asked(sequence_start=True), headers=world.ada)
    assert started.status_code == 200, started.text
    told = await world.post(url, json=asked(), headers=world.bob)
    assert told.status_code == 400
    assert "must specify the START flag" in told.json()["error"]
    told = await world.post(url, json=asked(), headers=world.ada)
    assert told.json()["parameters"]["sequence_step"] == 2


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize("end", ["", "_stream"])
async def test_a_writing_is_its_own_tenants(world, version, end):
    def asked(**flags):
        return {"parameters": {"sequence_id": 7, "max_tokens": 2} | flags, "text_input": "a"}

    url = f"/v2/models/verse{version}/generate{end}"
    started = await world.post(url, json=asked(sequence_start=True), headers=world.ada)
    assert started.status_code == 200, started.text
    told = await world.post(url, json=asked(), headers=world.bob)
    assert told.status_code == 400
    assert "must specify the START flag" in told.json()["error"]
    told = await world.post(url, json=asked(), headers=world.ada)
    assert '"sequence_step":2' in told.text


async def test_users_load_and_unload_nothing(world):
    for what in ("load", "unload"):
        url = f"/v2/repository/models/mood/{what}"
        told = await world.post(url, json={}, headers=world.bob)
        assert told.status_code == 403
    told = await world.get("/v2/models/mood/ready", headers=world.bob)
    assert told.status_code == 200


@pytest.mark.parametrize("said", ["none", "wrong", "revoked"])
@pytest.mark.parametrize(
    ("method", "path", "operation"), OPERATIONS, ids=[f"{m} {p}" for m, p, _ in OPERATIONS]
)
async def test_every_operation_asks_for_a_key_or_is_open(tmp_path, method, path, operation, said):
    file, keys = keys_file(tmp_path, ada="user")
    file.write_text(file.read_text().replace(" }", ", revoked = true }"))
    key = {"none": {}, "wrong": headers("x" * 43), "revoked": headers(keys["ada"])}[said]
    async with serving(api_keys_file=file) as client:
        url = path.format_map(dict.fromkeys(("session", "model", "version"), "x"))
        told = await client.request(method, url, json=body_of(operation), headers=key)
    is_open = operation["security"] == []
    assert (told.status_code == 401) is not is_open
    assert is_open is (path in OPEN_PATHS or path == "/metrics")


async def test_a_bulk_steps_ones_own_only(world):
    body = {"steps": [{"session": "s", "observations": [[1, 2]]}]}
    columns = pa.table({"session": ["s"], "observations": [[1.0, 2.0]]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as writer:
        writer.write_table(columns)
    arrow = world.bob | {"Content-Type": ARROW}
    told = await world.post("/v1/steps", json=body, headers=world.bob)
    assert [each["status"] for each in told.json()["results"]] == [404]
    told = await world.post("/v1/steps", content=sink.getvalue().to_pybytes(), headers=arrow)
    assert pa.ipc.open_stream(told.content).read_all()["status"].to_pylist() == [404]
    told = await world.post("/v1/steps", json=body, headers=world.ada)
    assert [each["step"] for each in told.json()["results"]] == [2]
