"""Quotas of a tenant: counted over replicas, told, freed, and nobody else's matter."""

import asyncio

import pytest

from service.api.auth import quotas
from service.api.auth.keys import KeyRing
from service.errors import StartUpError
from tests.api.keys import headers, keys_file, line_of
from tests.api.support import serving
from tests.stores.valkey import SAFE, running_valkey

OPEN = {"model": "load", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}
MOST = 3


def quota_file(folder, **quota):
    """Ada's tenant may have so much, by this key; Bob's has no quota."""
    path, keys = keys_file(folder, ada="user", bob="user")
    said = "".join(f", {name} = {value}" for name, value in quota.items())
    line = line_of(path, "ada").replace(" }", said + " }")
    path.write_text(line + "\n" + line_of(path, "bob"))
    return path, headers(keys["ada"]), headers(keys["bob"])


async def opened(client, said, *names):
    bodies = [OPEN | {"session": name} for name in names]
    asked = [client.post("/v1/sessions", json=body, headers=said) for body in bodies]
    return [answer.status_code for answer in await asyncio.gather(*asked)]


async def test_sessions_beyond_the_quota_are_refused_and_say_how_many_there_are(tmp_path):
    path, ada, bob = quota_file(tmp_path, max_sessions=MOST)
    async with serving(api_keys_file=path) as client:
        assert await opened(client, ada, "a", "b", "c") == [201] * MOST
        answer = await client.post("/v1/sessions", json=OPEN, headers=ada)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:carry:quota-exceeded")
        assert answer.json()["num_sessions"] == MOST
        assert answer.json()["num_bytes"] > 0
        assert "retry-after" not in answer.headers
        assert await opened(client, bob, *"abcdef") == [201] * 6


async def test_at_once_no_more_come_in_than_there_is_room_for(tmp_path):
    path, ada, _ = quota_file(tmp_path, max_sessions=MOST)
    async with serving(api_keys_file=path) as client:
        told = await opened(client, ada, *"abcdefghij")
        assert sorted(told) == [201] * MOST + [403] * 7


async def test_what_is_open_goes_on_and_is_opened_again_by_the_same_request(tmp_path):
    path, ada, _ = quota_file(tmp_path, max_sessions=1)
    async with serving(api_keys_file=path) as client:
        assert await opened(client, ada, "a") == [201]
        assert await opened(client, ada, "a", "b") == [201, 403]
        for count in range(3):
            answer = await client.post("/v1/sessions/a/steps", json=STEP, headers=ada)
            assert (answer.status_code, answer.json()["step"]) == (200, count + 1)
        body = {"steps": [{"session": name} | STEP for name in "ab"]}
        answer = await client.post("/v1/steps", json=body, headers=ada)
        assert [each["status"] for each in answer.json()["results"]] == [200, 404]


async def test_a_session_that_was_closed_makes_room_at_once(tmp_path):
    path, ada, _ = quota_file(tmp_path, max_sessions=1)
    async with serving(api_keys_file=path) as client:
        for name in "abc":
            assert await opened(client, ada, name) == [201]
            assert await opened(client, ada, "more") == [403]
            await client.delete(f"/v1/sessions/{name}", headers=ada)


async def test_whatever_opens_a_session_is_held_to_the_quota(tmp_path):
    path, ada, _ = quota_file(tmp_path, max_sessions=1)
    (tmp_path / "snapshot.keys").write_text("s" * 32)
    settings = {"api_keys_file": path, "snapshot_key_file": tmp_path / "snapshot.keys"}
    async with serving(**settings) as client:
        assert await opened(client, ada, "a") == [201]
        taken = await client.get("/v1/sessions/a/snapshot", headers=ada)
        snapshot = ada | {"Content-Type": taken.headers["content-type"]}
        row = {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": [1, 2]}
        time = {"name": "time", "shape": [1, 1], "datatype": "INT64", "data": [1_471_824_000]}
        start = {"sequence_id": 7, "sequence_start": True}
        told = [
            await client.post("/v1/sessions/a/fork", json={"session": "b"}, headers=ada),
            await client.put("/v1/sessions/b/snapshot", content=taken.content, headers=snapshot),
            await client.post(
                "/v2/models/load/infer",
                json={"inputs": [row, time], "parameters": start},
                headers=ada,
            ),
        ]
        assert [each.status_code for each in told] == [403] * 3, [each.text for each in told]
        page = await client.get("/v1/sessions", headers=ada)
        assert [each["session"] for each in page.json()["sessions"]] == ["a"]
        # Onto what is open it takes no more room.
        onto = "/v1/sessions/a/snapshot?replace=true"
        answer = await client.put(onto, content=taken.content, headers=snapshot)
        assert answer.status_code == 200, answer.text


async def test_bytes_are_counted_as_they_are_stored(tmp_path):
    path, ada, _ = quota_file(tmp_path, max_bytes=1)
    async with serving(api_keys_file=path) as client:
        assert await opened(client, ada, "a") == [201]
        answer = await client.post("/v1/sessions", json=OPEN, headers=ada)
        assert answer.status_code == 403
        assert answer.json()["num_bytes"] > 64


@pytest.mark.parametrize("quota", [{"max_sessions": MOST}, {"max_bytes": 1}])
async def test_replicas_on_one_store_count_together(tmp_path, quota):
    path, ada, _ = quota_file(tmp_path, **quota)
    most = MOST if "max_sessions" in quota else 1
    with running_valkey(**SAFE) as valkey:
        settings = {"api_keys_file": path, "store": valkey.url, "store_timeout_s": 20}
        async with serving(**settings) as here, serving(**settings) as there:
            replicas = [here, there] * 3
            told = [
                (await opened(client, ada, f"s{place}"))[0] for place, client in enumerate(replicas)
            ]
            assert told[:most] == [201] * most
            assert 403 in told
            # Whatever each of them believed at first, none opens more once it has counted.
            assert await opened(here, ada, "x") == await opened(there, ada, "y") == [403]


async def test_a_count_is_kept_for_a_while_and_no_longer(tmp_path, monkeypatch):
    path, ada, _ = quota_file(tmp_path, max_sessions=100)
    async with serving(api_keys_file=path) as client:
        store, counts = client.app.app.state.context.engine.store, []
        count = store.usage

        async def counted(tenant):
            counts.append(tenant)
            return await count(tenant)

        monkeypatch.setattr(store, "usage", counted)
        await opened(client, ada, *"abcdefgh")
        assert counts == ["ada"]
        monkeypatch.setattr(quotas, "_COUNT_KEPT_S", 0.0)
        await opened(client, ada, "i")
        assert counts == ["ada"] * 2


@pytest.mark.parametrize("said", ["max_sessions = -1", 'max_bytes = "many"'])
def test_a_quota_that_is_none_stops_the_start(tmp_path, said):
    path, _ = keys_file(tmp_path, ada="user")
    path.write_text(path.read_text().replace(" }", f", {said} }}"))
    with pytest.raises(StartUpError, match=said.partition(" ")[0]):
        KeyRing(path)
