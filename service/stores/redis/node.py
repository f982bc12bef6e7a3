"""One Redis or Valkey server: a few connections, each with one pipeline under way.

Rule 1: nothing is ever sent twice from here. redis-py's own retries are off: whether a write may be
        repeated is for those to say who can read back what became of it.
Rule 2: each command gets a reply or an error of its own. `NotSentError`: the server never saw it.
        `LostError`: it may have been carried out.
Rule 3: a call ends within `timeout_s`, or when its caller's time is over: waiting for a connection,
        making it, and being answered share that time. After a failure calls are refused at once for
        a while, which grows to a second, so that a server that is away holds nobody up.
Rule 4: a connection that was not read to its end is closed and never used again.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any, Final

import structlog
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.stores.redis.url import Place, RedisAddress

log = structlog.get_logger()

Command = Sequence[bytes | str | int | float]
"""A command and its arguments."""

MAX_CONNECTIONS: Final = 16
_FIRST_BACKOFF_S: Final = 0.05
_LAST_BACKOFF_S: Final = 1.0


class NotSentError(Exception):
    """The server was not reached: nothing was carried out."""


class LostError(Exception):
    """The answer was lost: the command may have been carried out."""


def has_timed_out(error: Exception) -> bool:
    """Whether it is one of these, because the server did not answer in time."""
    cause = error.args[0] if error.args else None
    is_from_here = isinstance(error, NotSentError | LostError)
    return is_from_here and isinstance(cause, TimeoutError | RedisTimeoutError)


class Node:
    """Owned by its topology, which closes it. Used from one event loop."""

    def __init__(self, place: Place, address: RedisAddress, timeout_s: float) -> None:
        self.place = place
        self._timeout_s = timeout_s
        self._kind, self._options = connection_of(place, address, timeout_s)
        self._idle: list[Connection] = []
        self._is_closed = False
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._refused_until = 0.0
        self._backoff_s = 0.0
        self._failure: Exception | None = None

    async def send(self, commands: Sequence[Command], due_at: float | None = None) -> list[Any]:
        """Replies in order, in one round trip; errors stand in their place.

        `due_at` is a time of the event loop's clock, for a caller that makes more than one call.
        """
        now = asyncio.get_running_loop().time()
        due_at = now + self._timeout_s if due_at is None else due_at
        if time.monotonic() < self._refused_until:
            return [NotSentError(self._failure)] * len(commands)
        try:
            async with asyncio.timeout_at(due_at):
                await self._room.acquire()
        except TimeoutError:
            return [NotSentError(TimeoutError("all connections are busy"))] * len(commands)
        try:
            return await self._send(commands, due_at)
        finally:
            self._room.release()

    async def close(self) -> None:
        """Close what is idle now, and whatever is busy when it is through."""
        self._is_closed = True
        await self._close_idle()

    async def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    async def _send(self, commands: Sequence[Command], due_at: float) -> list[Any]:
        if time.monotonic() < self._refused_until:  # it failed while this waited for a connection
            return [NotSentError(self._failure)] * len(commands)
        try:
            connection = await self._connected(due_at)
        except (RedisError, OSError, TimeoutError) as error:
            reason = await self._failed(error)
            return [NotSentError(reason)] * len(commands)
        replies: list[Any] = []
        try:
            async with asyncio.timeout_at(due_at):
                await connection.send_packed_command(b"".join(map(packed, commands)))
                for _ in commands:
                    # One by one: those before a failure count.
                    replies.append(await _reply(connection))  # noqa: PERF401
        except (RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            reason = await self._failed(error)
            return replies + [LostError(reason)] * (len(commands) - len(replies))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        if self._is_closed:
            await self._close_idle()
        if self._failure is not None:
            log.info("session store is back", server=_shown(self.place))
            self._failure, self._backoff_s = None, 0.0
        return replies

    async def _connected(self, due_at: float) -> Connection:
        """An idle connection that still stands, or a new one."""
        connection = self._idle.pop() if self._idle else self._kind(**self._options)
        try:
            async with asyncio.timeout_at(due_at):
                if connection.is_connected and await _is_stale(connection):
                    await connection.disconnect(nowait=True)
                await connection.connect()  # type: ignore[no-untyped-call]
            if asyncio.get_running_loop().time() >= due_at:
                raise TimeoutError  # noqa: TRY301 -- nothing is sent, as where it takes too long
        except BaseException:  # half a greeting must never be gone on with
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _failed(self, error: Exception) -> Exception:
        """Refuse calls for a while; the error, in words."""
        if isinstance(error, TimeoutError):
            error = TimeoutError(f"no answer within {self._timeout_s:g} s")
        if self._failure is None:
            log.warning(
                "session store is away", server=_shown(self.place), reason=str(error) or repr(error)
            )
        self._failure = error
        self._backoff_s = min(2 * self._backoff_s or _FIRST_BACKOFF_S, _LAST_BACKOFF_S)
        self._refused_until = time.monotonic() + self._backoff_s
        await self._close_idle()  # the others lead to the same server
        return error


def connection_of(
    place: Place, address: RedisAddress, timeout_s: float
) -> tuple[type[Connection], dict[str, Any]]:
    """The class of a connection to a server of an address, and what it is made with."""
    options: dict[str, Any] = {
        "host": place[0],
        "port": place[1],
        "db": address.db,
        "username": address.username,
        "password": address.password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": "carry",
        "driver_info": None,
    }
    if not address.uses_tls:
        return Connection, options
    return SSLConnection, options | {"ssl_ca_certs": address.ca_file and str(address.ca_file)}


def packed(words: Command) -> bytes:
    """A command as it is sent: redis-py's own packing takes a third of the time of a commit."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


async def _reply(connection: Connection) -> Any:  # noqa: ANN401 -- what a command answers
    try:
        # No time of its own for each reply: the caller's is for all of them.
        return await connection.read_response(
            disable_decoding=True, timeout=math.inf, disconnect_on_error=False
        )
    except (ResponseError, BusyLoadingError, AuthenticationError) as error:
        return error  # an answer like any other: what follows it can be read


async def _is_stale(connection: Connection) -> bool:
    """Whether the server has closed it, or said something that nobody asked for."""
    try:
        return bool(await connection.can_read())
    except (RedisError, OSError):
        return True


def _shown(place: Place) -> str:
    return f"{place[0]}:{place[1]}"
