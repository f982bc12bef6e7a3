"""CARRY_STORE as a URL of Redis: parsed as documented, or refused without showing the password."""

import pytest

from service.errors import StartUpError
from service.stores.factory import open_store
from service.stores.redis.url import read_redis_url


@pytest.mark.parametrize(
    ("url", "topology", "endpoints", "service", "db"),
    [
        ("redis://valkey", "single", [("valkey", 6379)], "", 0),
        ("redis://10.0.0.1:7000/3", "single", [("10.0.0.1", 7000)], "", 3),
        ("rediss://[::1]:6380", "single", [("::1", 6380)], "", 0),
        ("redis+sentinel://a,b:5000/main", "sentinel", [("a", 26379), ("b", 5000)], "main", 0),
        ("rediss+sentinel://a/main/2", "sentinel", [("a", 26379)], "main", 2),
        ("redis+cluster://a:1,b:2,c", "cluster", [("a", 1), ("b", 2), ("c", 6379)], "", 0),
    ],
)
def test_an_address_is_read(url, topology, endpoints, service, db):
    address = read_redis_url(url)
    assert (address.topology, list(address.endpoints)) == (topology, endpoints)
    assert (address.service, address.db) == (service, db)
    assert address.uses_tls == url.startswith("rediss")
    assert (address.username, address.password) == (None, None)


def test_user_and_password_are_decoded_and_not_shown():
    address = read_redis_url("redis://me:p%40ss%2Fword@host")
    assert (address.username, address.password) == ("me", "p@ss/word")
    assert "p@ss" not in repr(address)


def test_a_password_is_read_from_a_file(tmp_path):
    (tmp_path / "password").write_text("s3cret\n")
    assert read_redis_url("redis://host", tmp_path / "password").password == "s3cret"


@pytest.mark.parametrize(
    "url",
    [
        "redis:/x",
        "redis://",
        "redis://a,b",
        "redis://host:port",
        "redis://host:0x1",
        "redis://host/name",
        "redis://host/1/2",
        "redis://host?db=1",
        "redis+sentinel://a,b",
        "redis+cluster://a/1",
        "redis+cluster://a,,b",
        "redis+ring://a",
        "redis://user:hunter2@host:port",
        "redis+other://user:hunter2@host",
    ],
)
def test_a_bad_address_is_refused_naming_the_setting_and_never_the_password(url):
    with pytest.raises(StartUpError, match=r"CARRY_STORE .*expected redis://") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("mark", "/?#")
def test_a_password_that_ends_the_host_is_refused_and_not_shown(mark):
    with pytest.raises(StartUpError, match="CARRY_STORE_PASSWORD_FILE") as caught:
        open_store(f"redis://user:hun{mark}ter2@host")
    assert "hun" not in str(caught.value)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["[::1", "::1]", "[no-address]", "a\u2100b"])
def test_an_invalid_url_is_refused_and_not_shown(host):
    with pytest.raises(StartUpError, match=r"CARRY_STORE .*expected ") as caught:
        open_store(f"redis://user:hunter2@{host}")
    assert "hunter2" not in str(caught.value)


def test_files_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(StartUpError, match="CARRY_STORE_PASSWORD_FILE"):
        read_redis_url("redis://host", tmp_path / "nowhere")
    with pytest.raises(StartUpError, match="CARRY_STORE_CA_FILE"):
        read_redis_url("rediss://host", ca_file=tmp_path / "nowhere")
    with pytest.raises(StartUpError, match=r"CARRY_STORE_CA_FILE .*expected rediss"):
        read_redis_url("redis://host", ca_file=tmp_path)
