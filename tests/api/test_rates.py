"""Limits of a key: counted, told, refused, and nobody else's matter."""

import signal

import pytest

from service.api.auth import rate_limits as rates
from service.api.auth.keys import KeyRing
from service.api.auth.rate_limits import RateLimits
from service.errors import RateLimitedError, StartUpError
from service.stores.base import StoreOptions
from tests.api.keys import bearer, headers, keys_file, line_of
from tests.api.support import listening, serving
from tests.api.test_protocol import short_way_taken
from tests.stores.valkey import Valkey, running_valkey

OPEN = {"model": "load", "session": "s", "start": "2016-08-22"}
STEP = {"observations": [[1, 2]]}


@pytest.fixture
def limited(tmp_path):
    """Ada may ask three times a year, a window that ends during no test, and Bob as he likes."""
    path, keys = keys_file(tmp_path, ada="user", bob="user")
    line = line_of(path, "ada").replace(" }", ', limits = "100/second; 3/year" }')
    path.write_text(line + "\n" + line_of(path, "bob"))
    return path, keys


async def test_what_is_left_is_told_and_what_is_too_much_refused(limited):
    path, keys = limited
    async with serving(api_keys_file=path) as client:
        ada, bob = headers(keys["ada"]), headers(keys["bob"])
        told = [await client.get("/v1/models", headers=ada) for _ in range(5)]
        assert [each.status_code for each in told] == [200, 200, 200, 429, 429]
        assert [each.headers.get("ratelimit-remaining") for each in told[:3]] == ["2", "1", "0"]
        assert told[0].headers["ratelimit-limit"] == "3"
        assert 0 < int(told[3].headers["retry-after"]) <= 366 * 86400
        assert told[3].json()["type"] == "urn:carry:rate-limited"
        for _ in range(5):
            free = await client.get("/v1/models", headers=bob)
            assert (free.status_code, "ratelimit-limit" in free.headers) == (200, False)


async def test_steps_of_a_limited_key_are_counted_off_the_short_way(limited, monkeypatch):
    path, keys = limited
    taken = short_way_taken(monkeypatch)
    async with listening(api_keys_file=path) as client:
        ada, bob = headers(keys["ada"]), headers(keys["bob"])
        for said in (ada, bob):
            await client.post("/v1/sessions", json=OPEN, headers=said)
        told = [
            (await client.post("/v1/sessions/s/steps", json=STEP, headers=said)).status_code
            for said in (ada, ada, ada, bob)
        ]
        assert told == [200, 200, 429, 200]
        assert (await client.get("/v1/sessions/s", headers=bob)).json()["step"] == 1
    assert taken == ["/v1/sessions/s/steps"]


async def test_replicas_on_one_redis_count_together_and_go_on_without_it(limited, monkeypatch):
    monkeypatch.setattr(rates, "_TIMEOUT_S", 20.0)
    valkey = Valkey()
    path, keys = limited
    caller = KeyRing(path).find(bearer(keys["ada"]))
    here, there = (RateLimits(valkey.url, StoreOptions(timeout_s=60.0)) for _ in range(2))
    await here.count(caller)
    await there.count(caller)
    await here.count(caller)
    with pytest.raises(RateLimitedError):
        await there.count(caller)
    valkey.close()
    assert await there.count(caller) == []
    await here.close()
    await there.close()


async def test_a_redis_that_is_silent_is_waited_for_once_and_for_less_than_the_store_is(limited):
    path, keys = limited
    caller = KeyRing(path).find(bearer(keys["ada"]))
    with running_valkey() as valkey:
        rates = RateLimits(valkey.url, StoreOptions(timeout_s=0.2))
        await rates.count(caller)
        valkey.signal(signal.SIGSTOP)
        waited = []
        rates._require = lambda *asked, require=rates._require: (
            waited.append(asked) or require(*asked)
        )
        for _ in range(5):
            assert await rates.count(caller) == []
        assert len(waited) < 5
        assert rates._timeout_s == 0.1
        valkey.signal(signal.SIGCONT)
        await rates.close()


@pytest.fixture(params=["memory://", "valkey"])
def store(request):
    if request.param != "valkey":
        yield request.param
        return
    with running_valkey() as valkey:
        yield valkey.url


@pytest.mark.parametrize("limits", ["2/day; 5/hour", "5/hour; 2/day"])
async def test_what_one_limit_refuses_does_not_count_for_the_others(store, tmp_path, limits):
    path, keys = keys_file(tmp_path, ada="user")
    path.write_text(path.read_text().replace(" }", f', limits = "{limits}" }}'))
    caller = KeyRing(path).find(bearer(keys["ada"]))
    rates = RateLimits(store, StoreOptions())
    for _ in range(2):
        await rates.count(caller)
    for _ in range(3):
        with pytest.raises(RateLimitedError, match="2 requests per 1 day"):
            await rates.count(caller)
    left = [await rates._limiter.get_window_stats(each, caller.key_id) for each in caller.limits]
    assert sorted(each.remaining for each in left) == [0, 3]
    await rates.close()


async def test_a_store_with_a_password_in_a_file_counts(limited, tmp_path):
    path, keys = limited
    password = tmp_path / "password"
    password.write_text("s3cret/@\n")
    with running_valkey(requirepass="s3cret/@") as valkey:
        store = {"store": f"{valkey.url}/1", "store_password_file": password}
        replicas = [serving(api_keys_file=path, **store) for _ in range(2)]
        async with replicas[0] as one, replicas[1] as two:
            told = [
                await client.get("/v1/models", headers=headers(keys["ada"]))
                for client in (one, two, one, two, one)
            ]
        assert [each.status_code for each in told] == [200, 200, 200, 429, 429]
        assert [each.headers.get("ratelimit-remaining") for each in told[:3]] == ["2", "1", "0"]


async def test_a_user_of_the_store_who_may_touch_its_keys_alone_counts(limited):
    path, keys = limited
    with running_valkey(user="carry on >s3cret ~carry:* &carry:* +@all") as valkey:
        store = valkey.url.replace("//", "//carry:s3cret@")
        async with serving(api_keys_file=path, store=store) as client:
            answer = await client.get("/v1/models", headers=headers(keys["ada"]))
        assert answer.headers["ratelimit-remaining"] == "2"


async def test_each_process_counts_alone_where_sessions_are_on_several_servers(limited):
    path, keys = limited
    caller = KeyRing(path).find(bearer(keys["ada"]))
    for url in ("redis+sentinel://nowhere/main", "redis+cluster://nowhere"):
        for _ in range(2):
            rates = RateLimits(url, StoreOptions())
            assert (b"ratelimit-remaining", b"2") in await rates.count(caller)
            await rates.close()


def test_a_limit_that_is_none_stops_the_start(tmp_path):
    path, _ = keys_file(tmp_path, ada="user")
    path.write_text(path.read_text().replace(" }", ', limits = "many" }'))
    with pytest.raises(StartUpError, match="100/second"):
        KeyRing(path)
