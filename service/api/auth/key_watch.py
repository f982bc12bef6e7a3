"""What becomes of keys while the service runs: the file read again, and streams ended in time.

Rule 1: the file is read in a daemon thread, never on the event loop: a disk that hangs holds up
        nothing but the next look.
Rule 2: a stream is watched from when it is open until it ends. It is told at once when its key is
        revoked, has expired, or means another tenant or role than when it was opened; it commits
        nothing from then on.
Rule 3: a file that is missing, empty or broken leaves the keys as they were. `fault` reports it
        to `/readyz`, and `on_look` to the metrics.

The application owns it, from `start` to `close`.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

from service.api.auth.keys import Caller, KeyRing

_EVERY_S: Final = 0.25
_MOST_SILENCE_S: Final = 30.0
"""A look that takes longer is told: whatever holds the file does not answer."""


class WatchedKey:
    """The key of one open stream."""

    def __init__(
        self, authorization: bytes | None, caller: Caller, on_gone: Callable[[], None]
    ) -> None:
        self.authorization = authorization
        self.caller = caller
        self.on_gone = on_gone


class KeyWatch:
    def __init__(self, keys: KeyRing, on_look: Callable[[bool], None] = lambda _: None) -> None:
        """`on_look` is called with whether the file is as it should be."""
        self._keys = keys
        self._on_look = on_look
        self._watched: set[WatchedKey] = set()
        self._looked_s = time.monotonic()
        self._has_ended = threading.Event()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look, on the loop that runs now; where no keys are configured there is nothing
        to look at.
        """
        if self._keys.is_open:
            return
        self._looked_s = time.monotonic()
        threading.Thread(target=self._look, name="keys-file", daemon=True).start()
        self._check()

    def close(self) -> None:
        self._has_ended.set()  # the thread is not waited for: its file may hang
        if self._timer is not None:
            self._timer.cancel()

    @property
    def fault(self) -> str:
        """What is wrong with the file, in words that anybody may read; empty if nothing is."""
        if self._timer is not None and time.monotonic() - self._looked_s > _MOST_SILENCE_S:
            return f"could not be read for {_MOST_SILENCE_S:g} s: check its disk"
        return self._keys.fault

    def watch(
        self, authorization: bytes | None, caller: Caller, on_gone: Callable[[], None]
    ) -> WatchedKey:
        """Call `on_gone` once, on the loop, when the key is not what it was; until `unwatch`."""
        watched = WatchedKey(authorization, caller, on_gone)
        if not self._keys.is_open:
            self._watched.add(watched)
            if not self._is_same(watched):  # it changed while the stream was being opened
                asyncio.get_running_loop().call_soon(self._tell, watched)
        return watched

    def unwatch(self, watched: WatchedKey) -> None:
        self._watched.discard(watched)

    def check(self) -> None:
        """End the streams whose keys are not what they were."""
        for watched in [each for each in self._watched if not self._is_same(each)]:
            self._tell(watched)

    def _tell(self, watched: WatchedKey) -> None:
        if watched in self._watched:
            self._watched.remove(watched)
            watched.on_gone()

    def _is_same(self, watched: WatchedKey) -> bool:
        now, then = self._keys.find(watched.authorization), watched.caller
        return now is not None and (now.tenant, now.is_admin) == (then.tenant, then.is_admin)

    def _check(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._check)
        self._on_look(not self.fault)
        self.check()

    def _look(self) -> None:
        """In the thread."""
        while not self._has_ended.wait(_EVERY_S):
            self._keys.look()
            self._looked_s = time.monotonic()
