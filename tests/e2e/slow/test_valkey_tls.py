"""`rediss://` speaks TLS to a server whose certificate it can check, and to no other."""

import ssl
import subprocess

import pytest

from service.api.auth.keys import KeyRing
from service.api.auth.rate_limits import RateLimits
from service.errors import StoreUnavailableError
from service.stores.base import StoreOptions
from service.stores.redis.store import RedisStore
from service.stores.redis.url import read_redis_url
from tests.api.keys import bearer, keys_file
from tests.e2e.wire import wire_to
from tests.stores.support import after, commit, opened
from tests.stores.valkey import running_valkey
from tests.system import require_program


@pytest.fixture
def certificate(tmp_path):
    """For 127.0.0.1, signed by itself: the file of it, and what serves with it."""
    file, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [require_program("openssl", package="openssl"), "req", "-x509", "-nodes"]
    command += ["-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=valkey"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", file]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return file, context


async def test_a_store_behind_tls_is_used_if_its_certificate_is_trusted(certificate):
    file, context = certificate
    with running_valkey(requirepass="pass") as server:
        async with wire_to(server.port, tls=context) as wire:
            url = f"rediss://:pass@127.0.0.1:{wire.port}"
            store = RedisStore(read_redis_url(url, ca_file=file), StoreOptions().timeout_s)
            [record] = await opened(store, "a")
            assert await commit(store, after(record), record)
            await store.close()
            stranger = RedisStore(read_redis_url(url), StoreOptions().timeout_s)
            with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
                await stranger.load(record.key)
            await stranger.close()


async def test_limits_of_keys_are_counted_behind_tls(certificate, tmp_path):
    file, context = certificate
    path, keys = keys_file(tmp_path, ada="user")
    path.write_text(path.read_text().replace(" }", ', limits = "3/hour" }'))
    caller = KeyRing(path).find(bearer(keys["ada"]))
    with running_valkey(requirepass="pass") as server:
        async with wire_to(server.port, tls=context) as wire:
            url = f"rediss://:pass@127.0.0.1:{wire.port}"
            rates = RateLimits(url, StoreOptions(ca_file=file))
            assert (b"ratelimit-remaining", b"2") in await rates.count(caller)
            await rates.close()
