"""The same as `tests/deploy/test_framings.py`, many more, against the real service.

Twenty thousand, each sent directly and through the front:

    FRAMINGS=20000 python -m pytest --timeout 7200 -s tests/deploy/slow/test_framings.py
"""

import os
from contextlib import ExitStack

import httpx
import pytest

from tests.api.keys import headers, keys_file
from tests.deploy.framings import Tenant, try_framings
from tests.deploy.front import running_nginx
from tests.e2e.server import running_server
from tests.fakes.bundles import write_forecaster

NUM_FRAMINGS = int(os.environ.get("FRAMINGS", "1500"))
FIRST_SEED = int(os.environ.get("FRAMINGS_FROM", "1000"))


@pytest.mark.parametrize("way", ["direct", "direct without keys", "front"])
async def test_any_framing_is_answered_as_it_was_sent(tmp_path, way):
    write_forecaster(tmp_path / "models")
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    settings = {"models": tmp_path / "models", "store": "memory://"}
    if way != "direct without keys":
        settings["api_keys_file"] = path
    with ExitStack() as stack:
        server = stack.enter_context(running_server(tmp_path, **settings))
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
        tenants = []
        for name, key in keys.items():
            said = headers(key)
            body = {"model": "load", "session": f"of-{name}", "start": "2016-08-22"}
            client.post("/v1/sessions", json=body, headers=said).raise_for_status()
            line = f"Authorization: {said['Authorization']}\r\n".encode()
            tenants.append(Tenant(f"of-{name}", line if "api_keys_file" in settings else b""))
        port = server.port
        if way == "front":
            port = int(stack.enter_context(running_nginx(tmp_path, [port])).rpartition(":")[2])
        counted = [0, 0]

        def count(num_requests: int) -> None:
            counted[0] += 1
            counted[1] += num_requests

        seeds = range(FIRST_SEED, FIRST_SEED + NUM_FRAMINGS)
        sent = await try_framings(seeds, port, tenants, is_direct=way != "front", report=count)
        made = {
            f"of-{name}": client.get(f"/v1/sessions/of-{name}", headers=headers(key)).json()["step"]
            for name, key in keys.items()
        }
        print(f"{way}: {counted[0]} framings, {counted[1]} requests, steps {made}")
        assert made == sent
        assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()
