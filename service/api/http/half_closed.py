"""Whether a client that ended its side of a connection still waits for its answer.

`shutdown(SHUT_WR)` and `close()` look alike to a server: a FIN. The first waits for an answer, the
second left, and answers to it hold up others. Only a write tells them apart: who left resets it.

Rule 1: what is written must mean nothing to who waits: `102 Processing` where no answer has begun,
        and only after `_PROBE_S`, so that most never see it; a comment in a stream of events.
Rule 2: asyncio no longer reads such a socket, so its error is asked for.
Rule 3: one timer a connection, owned by it, which ends with its transport.
"""

import asyncio
import socket
from collections.abc import Callable

_PROBE_S = 2.0
_LOOK_S = 0.1


class HalfClosedWatch:
    """Aborts `transport` when its client is found to have left; begun when its end has come."""

    def __init__(self, transport: asyncio.Transport, probe: Callable[[], bytes]) -> None:
        self._transport = transport
        self._probe = probe
        self._loop = asyncio.get_running_loop()
        self._probe_at_s = self._loop.time() + _PROBE_S
        self._look()

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        connection = self._transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
            return
        if self._loop.time() >= self._probe_at_s:
            self._probe_at_s += _PROBE_S
            self._transport.write(self._probe())
        self._loop.call_later(_LOOK_S, self._look)
