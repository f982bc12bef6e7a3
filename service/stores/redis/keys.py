"""The keys of a Redis store, all under one prefix.

The number in `carry:1:` is the version of the layout. The server expires none of these keys: the
sweeper removes sessions and counts them; values stay.
"""

from typing import Final
from zlib import crc32

from service.stores.record.record import Key

_PREFIX: Final = b"carry:1:"
NUM_SHARDS: Final = 16
"""Of the indexes, so that a cluster distributes them."""


def member_of(key: Key) -> bytes:
    """A session in an index: sorted by tenant, then by name. A tenant contains no zero byte."""
    return f"{key.tenant}\0{key.name}".encode()


def key_of(member: bytes) -> Key:
    tenant, _, name = member.decode().partition("\0")
    return Key(tenant, name)


def session_key(member: bytes) -> bytes:
    return _PREFIX + b"session:" + member


def shard_of(member: bytes) -> int:
    return crc32(member) % NUM_SHARDS


def index_keys(shard: int) -> list[bytes]:
    """`names` and `due` of a shard, in the same slot."""
    # The part in braces determines the slot in a cluster.
    head = _PREFIX + b"{index-%d}:" % shard
    return [head + b"names", head + b"due"]


def value_key(name: str) -> bytes:
    return _PREFIX + b"value:" + name.encode()


def check_key(shard: int) -> bytes:
    """An empty key, to check whether a server accepts writes."""
    return _PREFIX + b"{index-%d}:check" % shard
