"""How many sessions a tenant may have open, and of how many bytes: asked before one is opened.

Rule 1: the store is what is counted, so all replicas count together. A count is kept for
        `_COUNT_KEPT_S`, and what this process opened since is added to it: a tenant gets past its
        quota at most by what other processes opened meanwhile.
Rule 2: nothing is refused but by a count that began after the request came, so that a session that
        was closed makes room at once. Counts of one tenant are `_APART_S` apart, or as long as the
        last one took, and all callers that wait share one count.
Rule 3: only what opens a session is refused. One that is open may be stepped, opened again by the
        same request, and replaced.

Owned by the application; a tenant is remembered if one of its keys has a quota.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.api.auth.keys import Caller, Quota
from service.engine.engine import Engine
from service.engine.session.requests import SessionRequest
from service.engine.session.rules import Reply
from service.errors import QuotaExceededError
from service.stores.record.record import Key
from service.wordings import case

_COUNT_KEPT_S = 5.0
_APART_S = 0.25


@dataclass
class _Tenant:
    """What one tenant has, as far as it is known here."""

    counting: asyncio.Lock = field(default_factory=asyncio.Lock)
    counted_at: float = float("-inf")
    count_from: float = float("-inf")
    """Not counted again before that."""
    num_sessions: int = 0
    num_bytes: int = 0
    num_opening: int = 0
    """Admitted, not answered yet: a count may hold them or not, so they are added to it."""

    def has_room(self, quota: Quota) -> bool:
        return (quota.max_sessions is None or self.num_sessions < quota.max_sessions) and (
            quota.max_bytes is None or self.num_bytes < quota.max_bytes
        )


class Quotas:
    """Opens sessions for callers."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}

    async def open(self, caller: Caller, key: Key, request: SessionRequest) -> Reply:
        """`Engine.submit` of what opens a session, if the caller's quota has room for one.

        Raises:
            QuotaExceededError: it has none, and no such session is open.
            CarryError: as `submit`.
        """
        if caller.quota is None or not await self._has_room(caller.tenant, caller.quota, key):
            return await self._engine.submit(key, request)
        tenant = self._tenants[caller.tenant]
        tenant.num_sessions += 1
        tenant.num_opening += 1
        is_new = False
        try:
            reply = await self._engine.submit(key, request)
            is_new = reply.is_new and not reply.is_replay
        finally:
            tenant.num_opening -= 1
            tenant.num_sessions -= not is_new
        tenant.num_bytes += len(reply.record.data) * is_new
        return reply

    async def _has_room(self, name: str, quota: Quota, key: Key) -> bool:
        """False: there is none, and none is needed, because the session is open."""
        tenant = self._tenants.setdefault(name, _Tenant())
        asked_at = self._clock()
        if asked_at - tenant.counted_at > _COUNT_KEPT_S or not tenant.has_room(quota):
            async with tenant.counting:
                if tenant.counted_at <= asked_at:
                    await self._count(name, tenant)
        if tenant.has_room(quota):
            return True
        store = self._engine.store
        found = await store.load(key)
        if found is None or found.closed or found.expires_at <= await store.now():
            raise _refusal(name, quota, tenant)
        return False

    async def _count(self, name: str, tenant: _Tenant) -> None:
        await asyncio.sleep(tenant.count_from - self._clock())  # at once if it is past
        counted_at = self._clock()
        usage = await self._engine.store.usage(name)
        tenant.counted_at, now = counted_at, self._clock()
        tenant.count_from = now + max(_APART_S, now - counted_at)
        tenant.num_sessions = usage.num_sessions + tenant.num_opening
        tenant.num_bytes = usage.num_bytes


def _refusal(name: str, quota: Quota, tenant: _Tenant) -> QuotaExceededError:
    return QuotaExceededError(
        case(
            "quota-exceeded",
            tenant=name,
            num_sessions=tenant.num_sessions,
            num_bytes=tenant.num_bytes,
            max_sessions=_said(quota.max_sessions),
            max_bytes=_said(quota.max_bytes),
        ),
        num_sessions=tenant.num_sessions,
        num_bytes=tenant.num_bytes,
    )


def _said(bound: int | None) -> str:
    return "any number" if bound is None else str(bound)
