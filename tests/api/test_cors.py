"""Pages of other origins: none, unless they are named."""

from tests.api.keys import keys_file
from tests.api.support import listening, serving
from tests.api.test_protocol import short_way_taken

OPEN = {"model": "load", "session": "s", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
OURS, THEIRS = {"Origin": "https://app.example.org"}, {"Origin": "https://evil.example.org"}
ALLOWS = "access-control-allow-origin"


async def test_no_page_may_ask_where_none_is_named(client):
    assert ALLOWS not in (await client.get("/v1/models", headers=OURS)).headers
    assert (await client.options("/v1/sessions", headers=OURS | ASKS)).status_code == 405


async def test_a_named_page_may_ask_and_no_other(monkeypatch):
    taken = short_way_taken(monkeypatch)
    async with listening(cors_origins="https://app.example.org https://b.example.org") as client:
        await client.post("/v1/sessions", json=OPEN)
        for said, allowed in ((OURS, OURS["Origin"]), (THEIRS, None)):
            told = [
                await client.get("/v1/models", headers=said),
                await client.post("/v1/sessions/s/steps", json=STEP, headers=said),
                await client.options("/v1/sessions", headers=said | ASKS),
            ]
            assert [each.headers.get(ALLOWS) for each in told] == [allowed] * 3
            assert [each.status_code for each in told[:2]] == [200, 200]
    assert taken == []


async def test_a_page_asks_with_its_key_only_after_it_was_allowed_to(tmp_path):
    path, _ = keys_file(tmp_path, ada="user")
    async with serving(cors_origins=OURS["Origin"], api_keys_file=path) as client:
        assert (await client.options("/v1/sessions", headers=OURS | ASKS)).status_code == 200
        refused = await client.get("/v1/sessions", headers=OURS)
        assert (refused.status_code, refused.headers[ALLOWS]) == (401, OURS["Origin"])
