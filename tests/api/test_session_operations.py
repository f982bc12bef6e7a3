"""Fork, rewind, snapshot, restore and upgrade, as a client meets them."""

import math

import pytest

from service.api import limits
from service.api.codec import schemas
from service.stores.record.record import pack_data
from tests.api.keys import headers, keys_file
from tests.api.support import serving

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}
ROW = {"observations": [[1, 2]]}


async def open_session(client, num_steps=0, **fields):
    (await client.post("/v1/sessions", json=OPEN | fields)).raise_for_status()
    for step in range(num_steps):
        (await client.post("/v1/sessions/s/steps", json=ROW | {"step": step})).raise_for_status()


def code(answer):
    schemas.Problem.model_validate(answer.json(), extra="forbid")
    return answer.status_code, answer.json()["type"].removeprefix("urn:carry:")


async def test_a_fork_is_a_session_of_its_own(client):
    await open_session(client, 2)
    forked = await client.post("/v1/sessions/s/fork", json={"session": "t", "ttl_s": 9})
    assert (forked.status_code, forked.headers["location"]) == (201, "/v1/sessions/t")
    schemas.SessionAnswer.model_validate(forked.json(), extra="forbid")
    assert (forked.json()["session"], forked.json()["step"]) == ("t", 2)
    again = await client.post("/v1/sessions/s/fork", json={"session": "t", "ttl_s": 9})
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    other = await client.post("/v1/sessions/s/fork", json={"session": "t"})
    assert code(other) == (409, "session-exists")
    steps = [await client.post(f"/v1/sessions/{n}/steps", json=ROW | {"step": 2}) for n in "st"]
    assert steps[0].json()["prediction"] == steps[1].json()["prediction"]
    assert steps[1].json()["prediction"]["start"] == "2016-08-25T00:00:00Z"


async def test_forks_without_a_name_are_many_or_under_one_key_one(client):
    await open_session(client)
    names = set()
    for given in ({}, {}, {"Idempotency-Key": "a"}, {"Idempotency-Key": "a"}):
        answer = await client.post("/v1/sessions/s/fork", json={}, headers=given)
        assert answer.status_code == 201
        names.add(answer.json()["session"])
    assert len(names) == 3


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"session": "a/b"}, 422),
        ({"ttl_s": 1e12}, 422),
        ({"ttl_s": 0}, 422),
        ({"metadata": {"a": "x" * 20_000}}, 422),
        ({"step": 1}, 422),
    ],
)
async def test_a_fork_that_cannot_be_is_refused(client, body, status):
    await open_session(client)
    assert (await client.post("/v1/sessions/s/fork", json=body)).status_code == status
    assert code(await client.post("/v1/sessions/nobody/fork", json={})) == (
        404,
        "session-not-found",
    )


async def test_a_session_goes_back_to_a_checkpoint(client):
    await open_session(client, 4, checkpoints=2)
    detail = (await client.get("/v1/sessions/s")).json()
    assert detail["checkpoints"] == [2, 3]
    gone = await client.post("/v1/sessions/s/rewind", json={"step": 1})
    assert code(gone) == (409, "checkpoint-gone")
    assert (gone.json()["kept_steps"], gone.json()["expected_step"]) == ([2, 3], 4)
    back = await client.post("/v1/sessions/s/rewind", json={"step": 2})
    assert (back.status_code, back.json()["step"]) == (200, 2)
    schemas.SessionAnswer.model_validate(back.json(), extra="forbid")
    late = await client.post("/v1/sessions/s/steps", json=ROW | {"step": 3})
    assert code(late) == (409, "step-conflict")
    assert (await client.post("/v1/sessions/s/steps", json=ROW | {"step": 2})).json()["step"] == 3


@pytest.mark.parametrize("body", [{}, {"step": -1}, {"step": "2"}, {"step": 1, "more": 1}])
async def test_a_rewind_says_to_which_step(client, body):
    await open_session(client, 1, checkpoints=2)
    assert code(await client.post("/v1/sessions/s/rewind", json=body)) == (422, "invalid-input")


@pytest.mark.parametrize(
    ("field", "value"), [("checkpoints", 65), ("keep_observations", 4097), ("checkpoint_every", 0)]
)
async def test_more_than_the_settings_allow_is_not_kept(client, field, value):
    answer = await client.post("/v1/sessions", json=OPEN | {field: value})
    assert code(answer) == (422, "invalid-input")
    assert field in answer.json()["detail"]


async def test_operations_are_counted(client):
    await open_session(client, 2, checkpoints=2)
    await client.post("/v1/sessions/s/fork", json={})
    await client.post("/v1/sessions/s/rewind", json={"step": 1})
    text = (await client.get("/metrics")).text
    for operation in ("fork", "rewind"):
        labels = f'{{model="load",operation="{operation}",version="1"}}'
        assert f"carry_session_operations_total{labels} 1.0" in text


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "snapshot.keys"
    path.write_text("k" * 32)
    return path


async def put(client, path, snapshot, **headers):
    kind = {"content-type": "application/vnd.carry.snapshot"}
    return await client.put(path, content=snapshot, headers=kind | headers)


async def test_a_session_is_copied_to_another_cluster_by_its_snapshot(key_file):
    async with (
        serving(snapshot_key_file=key_file) as here,
        serving(snapshot_key_file=key_file) as there,
    ):
        await open_session(here, 2)
        taken = await here.get("/v1/sessions/s/snapshot")
        assert taken.headers["content-type"] == "application/vnd.carry.snapshot"
        path = "/v1/sessions/moved/snapshot"
        restored = await put(there, path, taken.content)
        assert (restored.status_code, restored.json()["step"]) == (201, 2)
        schemas.SessionAnswer.model_validate(restored.json(), extra="forbid")
        assert restored.headers["location"] == "/v1/sessions/moved"
        again = await put(there, path, taken.content)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        body = ROW | {"step": 2}
        ours = (await there.post("/v1/sessions/moved/steps", json=body)).json()
        theirs = (await here.post("/v1/sessions/s/steps", json=body)).json()
        assert ours["prediction"] == theirs["prediction"]
        taken_again = (await here.get("/v1/sessions/s/snapshot")).content
        assert code(await put(there, path, taken_again)) == (409, "session-exists")
        replaced = await put(there, path + "?replace=true", taken_again)
        assert (replaced.status_code, replaced.json()["step"]) == (200, 3)
        assert code(await put(there, path, b"x" + taken.content)) == (422, "snapshot-refused")
        text = {"content-type": "text/plain"}
        assert code(await put(there, path, b"", **text)) == (415, "unsupported-media-type")
        assert code(await here.get("/v1/sessions/none/snapshot")) == (404, "session-not-found")


@pytest.mark.parametrize(
    ("opened", "bound"),
    [
        ({"ttl_s": 3600}, "max_ttl_s"),
        ({"replay": 3}, "MAX_REPLAY"),
        ({"checkpoints": 3}, "MAX_CHECKPOINTS"),
        ({"keep_observations": 3}, "MAX_KEEP_OBSERVATIONS"),
    ],
)
async def test_a_restored_session_is_held_to_what_may_be_opened_here(
    monkeypatch, key_file, opened, bound
):
    ttl = {"max_ttl_s": 60, "default_ttl_s": 60} if bound == "max_ttl_s" else {}
    async with (
        serving(snapshot_key_file=key_file) as here,
        serving(snapshot_key_file=key_file, **ttl) as there,
    ):
        assert (await here.post("/v1/sessions", json=OPEN | opened)).status_code == 201
        taken = (await here.get("/v1/sessions/s/snapshot")).content
        [(name, value)], path = opened.items(), "/v1/sessions/moved/snapshot"
        with monkeypatch.context() as patch:
            if not ttl:
                patch.setattr(limits, bound, 2)
            refused = await put(there, path, taken)
        assert code(refused) == (422, "snapshot-refused")
        detail = refused.json()["detail"]
        assert f"{name} of the snapshot: expected at most" in detail
        assert f"found {value}" in detail
        assert ("CARRY_MAX_TTL_S" in detail) == bool(ttl)
        assert (await there.get("/v1/sessions")).json()["sessions"] == []
        assert (await put(here, path, taken)).status_code == 201


async def test_sessions_whose_times_no_calendar_has_are_listed_all_the_same(client):
    store = client.app.context.engine.store
    await open_session(client, 1)
    for ttl_s in (1e300, math.inf):
        [found] = await store.list_live("default", None, "", 9)
        data = pack_data(1, found.state, found.cursor, b"", 0, ttl_s, 0.0)
        assert await store.commit([(found.header, data, found)]) != [None]
        [shown] = (await client.get("/v1/sessions")).json()["sessions"]
        assert shown["expires_at"] == "9999-12-31T23:59:59Z"


async def test_a_snapshot_of_another_tenants_key_is_forbidden(tmp_path, key_file):
    path, keys = keys_file(tmp_path, acme="user", umbra="user")
    async with serving(snapshot_key_file=key_file, api_keys_file=path) as client:
        mine, theirs = headers(keys["acme"]), headers(keys["umbra"])
        await client.post("/v1/sessions", json=OPEN | {"checkpoints": 1}, headers=mine)
        taken = await client.get("/v1/sessions/s/snapshot", headers=mine)
        answer = await put(client, "/v1/sessions/s/snapshot", taken.content, **theirs)
        assert code(answer) == (403, "snapshot-foreign")
        for method, operation, body in (
            ("GET", "snapshot", None),
            ("POST", "fork", {}),
            ("POST", "rewind", {"step": 0}),
        ):
            url = f"/v1/sessions/s/{operation}"
            answer = await client.request(method, url, json=body, headers=theirs)
            assert code(answer) == (404, "session-not-found")


async def test_without_a_key_snapshots_are_off_and_say_what_to_set(client):
    await open_session(client)
    for answer in (
        await client.get("/v1/sessions/s/snapshot"),
        await put(client, "/v1/sessions/s/snapshot", b""),
    ):
        assert code(answer) == (501, "snapshots-off")
        assert "CARRY_SNAPSHOT_KEY_FILE" in answer.json()["detail"]


async def test_a_snapshot_that_could_not_be_restored_is_not_given(key_file):
    async with serving(snapshot_key_file=key_file, max_body_bytes=1024) as client:
        await open_session(client, metadata={"much": "x" * 800})
        assert code(await client.get("/v1/sessions/s/snapshot")) == (413, "too-large")
        assert code(await put(client, "/v1/sessions/s/snapshot", b"x" * 1025)) == (413, "too-large")


async def test_a_session_is_handed_to_another_version_as_it_is(client):
    await open_session(client, 2)
    refused = await client.post("/v1/sessions/s/upgrade", json={"version": "2"})
    assert code(refused) == (409, "upgrade-refused")
    for remedy in ("replay", "compatible_states", "force"):
        assert remedy in refused.json()["detail"]
    assert (await client.get("/v1/sessions/s")).json()["version"] == "1"
    body = {"version": "2", "force": True}
    answer = await client.post("/v1/sessions/s/upgrade", json=body)
    schemas.UpgradeAnswer.model_validate(answer.json(), extra="forbid")
    told = answer.json()
    assert (answer.status_code, told["version"], told["from_version"]) == (200, "2", "1")
    assert (told["step"], told["replayed"], told["divergence"]) == (2, 0, None)
    assert (await client.get("/v1/sessions/s")).json()["version"] == "2"
    assert (await client.post("/v1/sessions/s/steps", json=ROW | {"step": 2})).json()["step"] == 3
    unknown = await client.post("/v1/sessions/s/upgrade", json={"version": "9"})
    assert code(unknown) == (404, "model-not-found")
    refused = await client.post("/v1/sessions/s/upgrade", json={"version": "1", "policy": "replay"})
    assert code(refused) == (409, "upgrade-refused")


async def test_a_replay_tells_how_far_the_versions_are_apart(client):
    await open_session(client, keep_observations=9)
    old = await client.post("/v1/sessions/s/steps", json={"observations": [[1, 2], [3, 4]]})
    body = {"version": "2", "policy": "replay"}
    answer = await client.post("/v1/sessions/s/upgrade", json=body)
    schemas.UpgradeAnswer.model_validate(answer.json(), extra="forbid")
    told = answer.json()
    history = {"start": OPEN["start"], "observations": [[1, 2], [3, 4]]}
    whole = await client.post("/v1/models/load/versions/2/predict", json={"instances": [history]})
    assert told["prediction"] == whole.json()["predictions"][0]
    was, now = old.json()["prediction"]["mean"], told["prediction"]["mean"]
    largest = max(abs(one - other) for one, other in zip(was, now, strict=True))
    assert told["divergence"]["mean"] == pytest.approx(largest, rel=1e-4)
    assert told["divergence"].keys() == {"mean", "quantiles"}
    assert (told["replayed"], told["step"]) == (2, 2)
    again = (await client.post("/v1/sessions/s/upgrade", json=body)).json()
    assert (again["replayed"], again["from_version"]) == (0, "2")
