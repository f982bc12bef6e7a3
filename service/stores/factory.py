"""Opens the store of a URL."""

from urllib.parse import urlsplit

from service.errors import StartUpError
from service.stores.base import Store, StoreOptions

_NO_OPTIONS = StoreOptions()
_EXPECTED = (
    "memory://, sqlite:///PATH (sqlite:////PATH for an absolute path), redis://HOST,"
    " redis+sentinel://HOST,…/SERVICE or redis+cluster://HOST,… (rediss for TLS)"
)


def open_store(url: str, options: StoreOptions = _NO_OPTIONS) -> Store:
    """`memory://`, `sqlite:///path` or a URL of `redis/url.py`.

    Raises:
        StartUpError: an unknown scheme, or an unusable file or server.
    """
    # Stores are imported on demand, so that only the chosen one needs its driver.
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StartUpError(
            "CARRY_STORE is not a valid URL (not shown, as it may contain a password), such as one"
            f" with '[' but no ']': expected {_EXPECTED}"
        ) from None
    if parts.scheme == "memory":
        from service.stores.memory import MemoryStore

        return MemoryStore()
    if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
        from service.stores.sqlite.store import SqliteStore

        return SqliteStore.open(parts.path[1:], options.durability)
    if parts.scheme.partition("+")[0] in ("redis", "rediss"):
        from service.stores.redis.store import RedisStore

        return RedisStore.open(url, options)
    raise StartUpError(f"CARRY_STORE is {parts.scheme}://…: expected {_EXPECTED}")
