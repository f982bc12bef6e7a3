"""One Redis or Valkey server: a pool of connections, with one pipeline at a time on each.

Rule 1: nothing is sent twice, and redis-py's retries are off: the engine reads back the outcome of
        a write before it repeats it.
Rule 2: each command has its own reply or error. `NotSentError`: the server did not receive it.
        `LostError`: the server may have carried it out.
Rule 3: a call ends within `timeout_s` or at its caller's deadline, including the time to get a
        connection. After a failure, calls fail at once for a backoff that grows to one second, so
        that they do not wait for a server that is down.
Rule 4: a connection with unread replies is closed and not used again.
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

from service.stores.redis.url import Endpoint, RedisAddress

log = structlog.get_logger()

Arguments = Sequence[bytes | str | int | float]
"""The name of a command and its arguments."""

MAX_CONNECTIONS: Final = 16
_FIRST_BACKOFF_S: Final = 0.05
_LAST_BACKOFF_S: Final = 1.0


class NotSentError(Exception):
    """The server did not receive the command."""


class LostError(Exception):
    """The reply was lost: the server may have carried out the command."""


def has_timed_out(error: Exception) -> bool:
    """Whether it is one of the errors above, and its cause a timeout."""
    cause = error.args[0] if error.args else None
    is_failed_call = isinstance(error, NotSentError | LostError)
    return is_failed_call and isinstance(cause, TimeoutError | RedisTimeoutError)


class Node:
    """Owned by its topology, which closes it. Used from one event loop."""

    def __init__(self, endpoint: Endpoint, address: RedisAddress, timeout_s: float) -> None:
        self.endpoint = endpoint
        self._timeout_s = timeout_s
        self._kind, self._options = connection_of(endpoint, address, timeout_s)
        self._idle: list[Connection] = []
        self._is_closed = False
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self._refused_until = 0.0
        self._backoff_s = 0.0
        self._failure: Exception | None = None

    async def send(self, commands: Sequence[Arguments], due_at: float | None = None) -> list[Any]:
        """Replies or errors in order, in one round trip.

        `due_at` is a deadline by the event loop's clock, for callers that make several calls.
        """
        now = asyncio.get_running_loop().time()
        due_at = now + self._timeout_s if due_at is None else due_at
        if time.monotonic() < self._refused_until:
            return [NotSentError(self._failure)] * len(commands)
        try:
            async with asyncio.timeout_at(due_at):
                await self._free.acquire()
        except TimeoutError:
            return [NotSentError(TimeoutError("all connections are busy"))] * len(commands)
        try:
            return await self._send(commands, due_at)
        finally:
            self._free.release()

    async def close(self) -> None:
        """Close idle connections now, and busy ones when they have finished."""
        self._is_closed = True
        await self._close_idle()

    async def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    async def _send(self, commands: Sequence[Arguments], due_at: float) -> list[Any]:
        if time.monotonic() < self._refused_until:  # it failed during the wait for a connection
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
                    # One by one, so that the replies before a failure are valid.
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
            log.info("session store is reachable again", server=_text_of(self.endpoint))
            self._failure, self._backoff_s = None, 0.0
        return replies

    async def _connected(self, due_at: float) -> Connection:
        """An idle connection that is still open, or a new one."""
        connection = self._idle.pop() if self._idle else self._kind(**self._options)
        try:
            async with asyncio.timeout_at(due_at):
                if connection.is_connected and await _is_stale(connection):
                    await connection.disconnect(nowait=True)
                await connection.connect()  # type: ignore[no-untyped-call]
            if asyncio.get_running_loop().time() >= due_at:
                raise TimeoutError  # noqa: TRY301 -- nothing was sent, as after a slow connect
        except BaseException:  # an unfinished handshake must not be continued
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _failed(self, error: Exception) -> Exception:
        """Start the backoff; return the error with its message."""
        if isinstance(error, TimeoutError):
            error = TimeoutError(f"no reply within {self._timeout_s:g} s")
        if self._failure is None:
            log.warning(
                "session store is unreachable",
                server=_text_of(self.endpoint),
                reason=str(error) or repr(error),
            )
        self._failure = error
        self._backoff_s = min(2 * self._backoff_s or _FIRST_BACKOFF_S, _LAST_BACKOFF_S)
        self._refused_until = time.monotonic() + self._backoff_s
        await self._close_idle()  # they lead to the same server
        return error


def connection_of(
    endpoint: Endpoint, address: RedisAddress, timeout_s: float
) -> tuple[type[Connection], dict[str, Any]]:
    """The class of a connection to an endpoint, and its options."""
    options: dict[str, Any] = {
        "host": endpoint[0],
        "port": endpoint[1],
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


def packed(arguments: Arguments) -> bytes:
    """A command in the wire format; redis-py's packing takes a third of the time of a commit."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


async def _reply(connection: Connection) -> Any:  # noqa: ANN401 -- the type depends on the command
    try:
        # No timeout for each reply: the caller's deadline covers all of them.
        return await connection.read_response(
            disable_decoding=True, timeout=math.inf, disconnect_on_error=False
        )
    except (ResponseError, BusyLoadingError, AuthenticationError) as error:
        return error  # a complete reply: the next ones can be read


async def _is_stale(connection: Connection) -> bool:
    """Whether the server has closed it, or sent data without a request."""
    try:
        return bool(await connection.can_read())
    except (RedisError, OSError):
        return True


def _text_of(endpoint: Endpoint) -> str:
    return f"{endpoint[0]}:{endpoint[1]}"
