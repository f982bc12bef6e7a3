"""Requests in any framing, directly and through the front: each is answered once, as it was sent.

`slow/test_framings.py` sends many more.
"""

from contextlib import asynccontextmanager

import pytest

from tests.api.keys import headers, keys_file
from tests.api.support import listening
from tests.deploy.framings import Tenant, try_framings
from tests.deploy.front import running_nginx

NUM_FRAMINGS = 30


@asynccontextmanager
async def two_tenants(folder, *, has_keys):
    """A service, and a tenant of its own for each of two sessions, or one for both without keys."""
    path, keys = keys_file(folder, ada="user", bob="user")
    settings = {"api_keys_file": path} if has_keys else {}
    async with listening(**settings) as client:
        tenants = []
        for name, key in keys.items():
            said = headers(key) if has_keys else {}
            body = {"model": "load", "version": "1", "session": f"of-{name}", "start": "2016-08-22"}
            (await client.post("/v1/sessions", json=body, headers=said)).raise_for_status()
            line = b"".join(f"{n}: {v}\r\n".encode() for n, v in said.items())
            tenants.append(Tenant(f"of-{name}", line))
        yield client, tenants


async def steps_made(client, tenants):
    made = {}
    for tenant in tenants:
        said = dict(
            [tenant.authorization.decode().strip().split(": ")] if tenant.authorization else []
        )
        answer = await client.get(f"/v1/sessions/{tenant.session}", headers=said)
        made[tenant.session] = answer.raise_for_status().json()["step"]
    return made


@pytest.mark.parametrize("has_keys", [True, False], ids=["keys", "open"])
async def test_any_framing_is_answered_as_it_was_sent(tmp_path, has_keys):
    async with two_tenants(tmp_path, has_keys=has_keys) as (client, tenants):
        sent = await try_framings(range(NUM_FRAMINGS), client.port, tenants, is_direct=True)
        assert await steps_made(client, tenants) == sent


async def test_any_framing_is_answered_as_it_was_sent_through_the_front(tmp_path):
    async with two_tenants(tmp_path, has_keys=True) as (client, tenants):
        with running_nginx(tmp_path, [client.port]) as url:
            port = int(url.rpartition(":")[2])
            sent = await try_framings(range(NUM_FRAMINGS), port, tenants, is_direct=False)
        assert await steps_made(client, tenants) == sent
