"""The application with keys: what needs one, what does not, and what is said without."""

import asyncio
import json
import subprocess
import sys

import pytest

from service.api.auth.keys import KeyRing
from tests.api.keys import headers, keys_file, line_of
from tests.api.support import listening, serving
from tests.api.test_protocol import answer, connected, short_way_taken
from tests.e2e.server import ROOT

OPEN = {"model": "load", "version": "1", "session": "s", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}
FREE = ["/", "/docs", "/redoc", "/openapi.json", "/asyncapi.json", "/healthz", "/readyz",
        "/metrics", "/v2", "/v2/health/live", "/v2/health/ready",
        "/static-offline-docs/swagger-ui.css"]  # fmt: skip


async def test_without_a_key_nothing_but_the_open_paths_is_answered(tmp_path):
    path, _ = keys_file(tmp_path, ada="user")
    async with serving(api_keys_file=path) as client:
        for free in FREE:
            assert (await client.get(free)).status_code < 400, free
        for method, url in [
            ("GET", "/v1/models"),
            ("GET", "/v1/sessions"),
            ("POST", "/v1/sessions/s/steps"),
            ("GET", "/v1/nothing"),
            ("GET", "/healthz/"),
            ("GET", "/metrics/"),
            ("BREW", "/v1/models"),
        ]:
            told = await client.request(method, url)
            assert told.status_code == 401, url
            assert told.headers["www-authenticate"] == 'Bearer realm="carry"'
            assert told.json()["type"] == "urn:carry:unauthenticated"


async def test_every_wrong_key_gets_the_same_answer(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    path.write_text(line_of(path, "ada", revoked=True))
    async with serving(api_keys_file=path) as client:
        told = {
            (await client.get("/v1/models", headers=said | {"X-Request-ID": "r"})).text
            for said in (
                {},
                headers("wrong"),
                headers(keys["ada"]),
                headers(keys["bob"]),
                {"Authorization": "Basic YTpi"},
            )
        }
    assert len(told) == 1
    assert keys["ada"] not in told.pop()


async def test_two_authorization_headers_are_none(tmp_path):
    path, keys = keys_file(tmp_path, ada="user")
    async with serving(api_keys_file=path) as client:
        said = [*headers(keys["ada"]).items(), *headers("wrong").items()]
        for order in (said, said[::-1]):
            assert (await client.get("/v1/models", headers=order)).status_code == 401


async def test_metrics_are_for_admins_where_that_is_asked(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", root="admin")
    async with serving(api_keys_file=path, metrics_need_key=True) as client:
        statuses = [
            (await client.get("/metrics", headers=said)).status_code
            for said in ({}, headers(keys["ada"]), headers(keys["root"]))
        ]
        assert statuses == [401, 403, 200]
        refused = await client.get("/metrics", headers=headers(keys["ada"]))
        assert refused.json()["type"] == "urn:carry:forbidden"


async def test_the_short_way_asks_for_the_key_and_keeps_tenants_apart(tmp_path, monkeypatch):
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    taken = short_way_taken(monkeypatch)
    async with listening(api_keys_file=path) as client:
        for name in keys:
            opened = await client.post("/v1/sessions", json=OPEN, headers=headers(keys[name]))
            assert opened.status_code == 201
        told = []
        async with connected(client) as (reader, writer):
            for key in (keys["ada"], keys["ada"], keys["bob"], "wrong", keys["bob"]):
                data = json.dumps(STEP).encode()
                writer.write(
                    b"POST /v1/sessions/s/steps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
                    + key.encode()
                    + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                    % len(data)
                    + data
                )
                status, _, body = await answer(reader)
                told.append((status, body.get("step")))
    assert told == [(200, 1), (200, 2), (200, 1), (401, None), (200, 2)]
    assert taken == ["/v1/sessions/s/steps"] * 4


async def test_a_revoked_key_is_refused_on_a_connection_that_stays(tmp_path):
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    async with listening(api_keys_file=path) as client:
        assert (await client.get("/v1/models", headers=headers(keys["ada"]))).status_code == 200
        path.write_text(line_of(path, "bob") + "\n")
        async with asyncio.timeout(10):
            said = headers(keys["ada"])
            while (await client.get("/v1/models", headers=said)).is_success:
                pass  # the file is looked at several times a second
        assert (await client.get("/v1/models", headers=headers(keys["bob"]))).status_code == 200


async def test_the_document_says_what_needs_a_key(client):
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            needs_key = operation["security"] == [{"key": []}]
            assert needs_key is (path not in FREE), path
            assert ("401" in operation["responses"]) is needs_key


@pytest.mark.parametrize("role", [[], ["--admin"]])
def test_the_command_prints_a_key_and_the_line_that_knows_it(tmp_path, role):
    command = [sys.executable, "-m", "service", "new-key", "--tenant", "acme", *role]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    key, line = [text for text in told.splitlines() if not text.startswith("#")]
    (tmp_path / "keys.toml").write_text(line)
    caller = KeyRing(tmp_path / "keys.toml").find(b"Bearer " + key.encode())
    assert (caller.tenant, caller.is_admin) == ("acme", role == ["--admin"])
    assert key not in line


def test_the_command_refuses_an_invalid_tenant():
    command = [sys.executable, "-m", "service", "new-key", "--tenant", "a/b"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 1
    assert told.stderr.strip().endswith("found 'a/b'")
