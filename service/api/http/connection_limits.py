"""The open connections of one process: how many there may be, and how long each may take.

Rule 1: one that the server waits for, be it for a first byte, the rest of a head or of a body, or
        for its client to read an answer, has `read_timeout_s` to get on; then it is closed, where
        half a request had come with 408. Trickled bytes do not count, a whole request does.
Rule 2: one more than `max_connections` is answered 503 and closed at once, so that those that are
        open go on, and descriptors are left for the store and the models.
Rule 3: owned by the application; looked at together, every quarter of the time limit, so that a
        step costs no timer; nothing runs while nothing is open.
"""

import asyncio
import resource
from typing import Protocol

import structlog

log = structlog.get_logger()

DESCRIPTORS_BESIDE = 64
"""For the store, models, logs, the reader of big bodies and accepting what is then refused."""


_MALFORMED_EVERY_S = 60.0


class Connection(Protocol):
    """What is looked at."""

    transport: asyncio.Transport

    def progress(self) -> object | None:
        """Something that changes when the client gets on; None while it is not waited for."""

    def close_slow(self) -> None: ...


class Connections:
    """Whoever is connected, and since when each has been waited for."""

    def __init__(self, max_connections: int, read_timeout_s: float) -> None:
        self.max_connections = max_connections
        self._read_timeout_s = read_timeout_s
        self._waited: dict[Connection, tuple[object | None, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._num_malformed = 0
        self._malformed_due_s = 0.0

    def admit(self, connection: Connection) -> bool:
        """False: there are too many; it is to be refused."""
        if len(self._waited) >= self.max_connections:
            return False
        self._waited[connection] = None, 0.0
        if self._timer is None:
            self._look_later()
        return True

    def remove(self, connection: Connection) -> None:
        self._waited.pop(connection, None)

    def note_malformed(self) -> None:
        """Log that connections sent what is no HTTP, at most once in `_MALFORMED_EVERY_S`."""
        self._num_malformed += 1
        now = asyncio.get_running_loop().time()
        if now >= self._malformed_due_s:
            log.warning(
                "connections were closed for malformed requests",
                num_connections=self._num_malformed,
            )
            self._num_malformed = 0
            self._malformed_due_s = now + _MALFORMED_EVERY_S

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._read_timeout_s / 4, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection, (before, since_s) in list(self._waited.items()):
            transport = connection.transport
            if transport.is_closing() and not transport.get_write_buffer_size():
                self.remove(connection)  # a WebSocket's end is told to nobody else
                continue
            progress = connection.progress()
            if progress is None or progress != before:
                self._waited[connection] = progress, now
            elif now - since_s >= self._read_timeout_s:
                self._waited[connection] = progress, now  # for what is to be answered before
                connection.close_slow()
        self._timer = None
        if self._waited:
            self._look_later()


def allow_descriptors(max_connections: int) -> int:
    """Raise this process's limit of open files, and say how many connections fit into it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    asked = max_connections + DESCRIPTORS_BESIDE
    if soft != resource.RLIM_INFINITY and soft < asked:
        soft = asked if hard == resource.RLIM_INFINITY else min(asked, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= asked:
        return max_connections
    fits = max(1, soft - DESCRIPTORS_BESIDE)
    log.warning(
        "fewer connections than CARRY_MAX_CONNECTIONS fit into the limit of open files",
        max_connections=fits, asked=max_connections, open_files=soft,
        remedy=f"ulimit -n {asked}",
    )  # fmt: skip
    return fits
