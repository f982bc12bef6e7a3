"""Inspects the servers at the start: what the store can promise depends on their configuration.

A server that may evict sessions or does not sync every write causes a warning, because the operator
may want it. A server is refused if it is too old, is of another topology than the URL, or denies
access.
"""

from typing import Any, Final

import structlog
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError

from service.errors import StartUpError
from service.stores.redis.node import LostError, NotSentError
from service.stores.redis.topology import Topology

log = structlog.get_logger()

NOT_REACHED: Final = "server: not reached yet"
_OLDEST: Final = (6, 0)
_SYNCED: Final = {
    "always": "server: synced before every reply",
    "everysec": "server: synced every second",
    "no": "server: synced when the system likes",
}
_DENIED: Final = (AuthenticationError, AuthorizationError, NoPermissionError)


async def inspect_servers(servers: Topology, topology: str) -> str:
    """The durability of the store, as text; `NOT_REACHED` while it cannot be reached.

    Raises:
        StartUpError: a server was reached, but cannot be used.
    """
    facts: list[dict[str, str]] = []
    for reply in await servers.send_to_each(("INFO",)):
        cause = reply.args[0] if isinstance(reply, NotSentError) and reply.args else reply
        if isinstance(cause, _DENIED) or "DB index" in str(cause):
            raise StartUpError(
                f"CARRY_STORE: the server denies access ({cause}): expected a valid user and"
                " password, permission to run scripts on carry:*, and an existing database"
            )
        if isinstance(reply, (NotSentError, LostError, RedisError)):
            return NOT_REACHED
        facts.append(_facts(reply))
    settings = [_pairs(reply) for reply in await servers.send_to_each(("CONFIG", "GET", "append*"))]
    durabilities = set()
    for index, fact in enumerate(facts):
        _refuse_unusable(fact, topology)
        policy = fact.get("maxmemory_policy", "unknown")
        if policy != "noeviction":
            log.warning(
                "the session store may evict sessions when its memory is full",
                maxmemory_policy=policy,
                expected="noeviction",
            )
        setting = settings[index] if index < len(settings) else {}
        durabilities.add(_durability(fact, setting))
    return " / ".join(sorted(durabilities))


def _refuse_unusable(fact: dict[str, str], topology: str) -> None:
    version = fact.get("redis_version", "")
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    if numbers and tuple(numbers) < _OLDEST:
        raise StartUpError(
            f"CARRY_STORE: the server has version {version}: expected Redis 6.0 or any Valkey"
        )
    mode = fact.get("server_mode") or fact.get("redis_mode")
    if mode == "cluster" and topology != "cluster":
        raise StartUpError(
            "CARRY_STORE: the server belongs to a cluster: expected redis+cluster://HOST:PORT,…"
        )
    if mode == "sentinel":
        raise StartUpError(
            "CARRY_STORE: the server is a sentinel: expected redis+sentinel://HOST:PORT,…/SERVICE"
        )


def _durability(fact: dict[str, str], setting: dict[str, str]) -> str:
    if fact.get("aof_enabled") == "1":
        durability = _SYNCED.get(
            setting.get("appendfsync", ""), "server: synced as it is configured"
        )
    else:
        durability = "server: a log of writes is off"
    if durability != _SYNCED["always"]:
        log.warning(
            "the session store may lose acknowledged steps when its server dies",
            durability=durability,
            expected="appendonly yes, appendfsync always",
        )
    return durability


def _facts(info: bytes) -> dict[str, str]:
    lines = info.decode(errors="replace").splitlines()
    return {key: value for key, mark, value in (line.partition(":") for line in lines) if mark}


def _pairs(reply: Any) -> dict[str, str]:  # noqa: ANN401 -- a reply or an error
    """The reply to CONFIG GET, which hosted servers may refuse."""
    if not isinstance(reply, list):
        return {}
    texts = [each.decode() for each in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))
