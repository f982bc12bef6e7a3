"""The names of everything that lies in a Redis store, all under one prefix.

`carry:1:` is the layout; one that cannot be read by this service would get another number. None of
these keys expires by the server: sessions end by the sweeper, which counts them; values never do.
"""

from typing import Final
from zlib import crc32

from service.stores.record.record import Key

_PREFIX: Final = b"carry:1:"
NUM_SHARDS: Final = 16
"""Of the indexes: so that they do not all lie on one server of a cluster."""


def member_of(key: Key) -> bytes:
    """A session in an index: sorted by tenant, then by name. A tenant holds no zero byte."""
    return f"{key.tenant}\0{key.name}".encode()


def key_of(member: bytes) -> Key:
    tenant, _, name = member.decode().partition("\0")
    return Key(tenant, name)


def session_key(member: bytes) -> bytes:
    return _PREFIX + b"session:" + member


def shard_of(member: bytes) -> int:
    return crc32(member) % NUM_SHARDS


def index_keys(shard: int) -> list[bytes]:
    """`names` and `due` of a shard, in one slot."""
    # In braces: what servers of a cluster choose the slot by.
    head = _PREFIX + b"{index-%d}:" % shard
    return [head + b"names", head + b"due"]


def value_key(name: str) -> bytes:
    return _PREFIX + b"value:" + name.encode()


def check_key(shard: int) -> bytes:
    """A key of no content, to see whether a server can be written."""
    return _PREFIX + b"{index-%d}:check" % shard
