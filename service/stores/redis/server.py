"""What a store may promise depends on its server: looked at when the service starts.

Told loudly, and not refused, because an operator may know better: a server that may throw sessions
away to make room, and one that writes nothing to its disk. Refused: one that is too old, that takes
no part in the topology that the URL names, or that does not let us in.
"""

from typing import Any, Final

import structlog
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError

from service.errors import StartUpError
from service.stores.redis.node import LostError, NotSentError
from service.stores.redis.topology import Topology

log = structlog.get_logger()

NOT_ASKED: Final = "server: not reached yet"
_OLDEST: Final = (6, 0)
_SYNCED: Final = {
    "always": "server: synced before every reply",
    "everysec": "server: synced every second",
    "no": "server: synced when the system likes",
}
_LOCKED_OUT: Final = (AuthenticationError, AuthorizationError, NoPermissionError)


async def look_at_servers(servers: Topology, topology: str) -> str:
    """How durable the store is, in words; `NOT_ASKED` while it cannot be reached.

    Raises:
        StartUpError: it can be reached and not be used.
    """
    facts: list[dict[str, str]] = []
    for reply in await servers.ask_each(("INFO",)):
        cause = reply.args[0] if isinstance(reply, NotSentError) and reply.args else reply
        if isinstance(cause, _LOCKED_OUT) or "DB index" in str(cause):
            raise StartUpError(
                f"CARRY_STORE: the server does not let this service in ({cause}): expected a user"
                " and password that it knows, a user that may run scripts on carry:*, and a"
                " database that it has"
            )
        if isinstance(reply, (NotSentError, LostError, RedisError)):
            return NOT_ASKED
        facts.append(_facts(reply))
    settings = [_pairs(reply) for reply in await servers.ask_each(("CONFIG", "GET", "append*"))]
    words = set()
    for place, fact in enumerate(facts):
        _refuse_unfit(fact, topology)
        policy = fact.get("maxmemory_policy", "unknown")
        if policy != "noeviction":
            log.warning(
                "the session store may throw sessions away when its memory is full",
                maxmemory_policy=policy,
                expected="noeviction",
            )
        setting = settings[place] if place < len(settings) else {}
        words.add(_durability(fact, setting))
    return " / ".join(sorted(words))


def _refuse_unfit(fact: dict[str, str], topology: str) -> None:
    version = fact.get("redis_version", "")
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    if numbers and tuple(numbers) < _OLDEST:
        raise StartUpError(
            f"CARRY_STORE: the server has version {version}: expected Redis 6.0 or any Valkey"
        )
    mode = fact.get("server_mode") or fact.get("redis_mode")
    if mode == "cluster" and topology != "cluster":
        raise StartUpError(
            "CARRY_STORE: the server is one of a cluster: expected redis+cluster://HOST:PORT,…"
        )
    if mode == "sentinel":
        raise StartUpError(
            "CARRY_STORE: the server is a sentinel: expected redis+sentinel://HOST:PORT,…/SERVICE"
        )


def _durability(fact: dict[str, str], setting: dict[str, str]) -> str:
    if fact.get("aof_enabled") == "1":
        word = _SYNCED.get(setting.get("appendfsync", ""), "server: synced as it is configured")
    else:
        word = "server: a log of writes is off"
    if word != _SYNCED["always"]:
        log.warning(
            "the session store may lose acknowledged steps when its server dies",
            durability=word,
            expected="appendonly yes, appendfsync always",
        )
    return word


def _facts(info: bytes) -> dict[str, str]:
    lines = info.decode(errors="replace").splitlines()
    return {key: value for key, mark, value in (line.partition(":") for line in lines) if mark}


def _pairs(reply: Any) -> dict[str, str]:  # noqa: ANN401 -- a reply or an error
    """What CONFIG GET answers; a server that is run by somebody else may refuse it."""
    if not isinstance(reply, list):
        return {}
    words = [word.decode() for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))
