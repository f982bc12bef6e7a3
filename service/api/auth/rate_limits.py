"""How many requests a key may make: counted over a sliding window, by the library `limits`.

Rule 1: counted in this process, or where sessions are in one Redis, there and for all replicas.
        With sentinels or a cluster each process counts alone.
Rule 2: a request that is refused does not count, for any limit. Only where another took the
        last place between the look at all of them and the count, those before it have counted.
        If Redis cannot be asked, requests pass: whatever needs a session is then refused by the
        store anyway.
Rule 3: keys without a limit are never counted; those with one leave the fast path of steps.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

import structlog
from limits import RateLimitItem
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio import ConnectionPool
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.api.auth.keys import Caller
from service.errors import RateLimitedError
from service.stores.base import StoreOptions
from service.stores.redis.node import connection_of
from service.stores.redis.url import read_redis_url

log = structlog.get_logger()

_TIMEOUT_S: Final = 1.0
_PART_OF_STORE_TIMEOUT: Final = 0.5
"""Whoever is counted waits for this and then for the store."""
_PAUSE_S: Final = 1.0
"""For which nothing is counted after Redis did not answer."""
_REDIS = ("redis", "rediss")
_PREFIX = "carry:limits"
"""Under `carry:`, as all of the store: its user may be one that sees nothing else."""


class RateLimits:
    """Owned by the application; the library drops windows that are over."""

    def __init__(self, store_url: str, options: StoreOptions) -> None:
        self._pool: ConnectionPool | None = None
        self._timeout_s = min(_TIMEOUT_S, _PART_OF_STORE_TIMEOUT * options.timeout_s)
        self._away_until = 0.0
        storage: Storage = MemoryStorage()
        if urlsplit(store_url).scheme in _REDIS:
            address = read_redis_url(store_url, options.password_file, options.ca_file)
            kind, settings = connection_of(address.endpoints[0], address, self._timeout_s)
            self._pool = ConnectionPool(kind, **settings)
            storage = RedisStorage(
                "async+redis://",  # the pool knows where
                implementation="redispy",
                key_prefix=_PREFIX,
                wrap_exceptions=True,
                connection_pool=self._pool,  # type: ignore[arg-type]  # as it is documented
            )
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.disconnect()

    async def count(self, caller: Caller) -> list[tuple[bytes, bytes]]:
        """Count one request; the headers that say how many are left of the narrowest limit.

        Raises:
            RateLimitedError: one of the key's limits is used up.
        """
        if time.monotonic() < self._away_until:
            return []
        try:
            async with asyncio.timeout(self._timeout_s):
                # One alone needs no look before: it counts only what it lets pass.
                if len(caller.limits) > 1:
                    await self._require(self._limiter.test, caller)
                await self._require(self._limiter.hit, caller)
                return await self._headers(caller)
        except (StorageError, TimeoutError) as error:
            cause = error.storage_error if isinstance(error, StorageError) else error
            if isinstance(cause, TimeoutError | RedisTimeoutError):  # each request would wait
                self._away_until = time.monotonic() + _PAUSE_S
            problem = str(error) or "no answer in time"
            log.warning("requests are not counted: the store is away", problem=problem)
            return []

    async def _require(
        self, passes: Callable[[RateLimitItem, str], Awaitable[bool]], caller: Caller
    ) -> None:
        for item in caller.limits:
            if not await passes(item, caller.key_id):
                raise _refusal(item, await self._seconds_left(item, caller))

    async def _headers(self, caller: Caller) -> list[tuple[bytes, bytes]]:
        left = [
            ((await self._limiter.get_window_stats(item, caller.key_id)).remaining, item)
            for item in caller.limits
        ]
        remaining, item = min(left, key=lambda each: each[0])
        return rate_headers(item, remaining, await self._seconds_left(item, caller))

    async def _seconds_left(self, item: RateLimitItem, caller: Caller) -> int:
        stats = await self._limiter.get_window_stats(item, caller.key_id)
        return max(1, math.ceil(stats.reset_time - time.time()))


def rate_headers(item: RateLimitItem, remaining: int, reset_s: int) -> list[tuple[bytes, bytes]]:
    said: Iterable[tuple[str, int]] = (
        ("limit", item.amount), ("remaining", remaining), ("reset", reset_s)
    )  # fmt: skip
    return [(f"ratelimit-{name}".encode(), str(value).encode()) for name, value in said]


def _refusal(item: RateLimitItem, reset_s: int) -> RateLimitedError:
    return RateLimitedError(
        f"the key may make {item.amount} requests per {item.multiples} {item.GRANULARITY.name}(s),"
        f" and has: try again in {reset_s} s; many steps fit into one request",
        retry_after_s=reset_s,
        limit=item.amount,
    )
