"""A thread of one's own for work that frees the interpreter while it runs: the graph's, the disk's.

Rule 1: work runs piece after piece, in the order in which it was put; each comes back on the event
        loop that put it. A piece costs two hand-overs of the interpreter; an executor takes more.
Rule 2: work keeps its own errors: `run` raises nothing.
Rule 3: where the system has no thread left, the loop does the work itself: late, but done.
Rule 4: where it is nice, other threads go first (on Linux, where threads
        have priorities of their own).

Whoever owns it closes it when nothing is under way any more. Its first piece of work starts it.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar


class Work(Protocol):
    def run(self) -> None: ...


W = TypeVar("W", bound=Work)


class WorkThread(Generic[W]):
    def __init__(self, name: str, on_done: Callable[[W], None], niceness: int = 0) -> None:
        self._name = name
        self._on_done = on_done
        self._niceness = niceness
        self._put: SimpleQueue[tuple[asyncio.AbstractEventLoop, W] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, work: W) -> None:
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = self._started()
        if self._thread is not None:
            self._put.put((loop, work))
        else:
            work.run()
            loop.call_soon(self._on_done, work)

    def close(self, *, waits: bool = True) -> None:
        """Return when the last piece has run; or at once, and let it run while there is a process.

        What comes of it is then told to nobody: its loop may be closed.
        """
        if self._thread is not None:
            self._put.put(None)
            if waits:
                self._thread.join()

    def _started(self) -> threading.Thread | None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there is none left; the next piece asks again
            return None
        return thread

    def _run(self) -> None:
        if self._niceness:
            _be_nice(self._niceness)
        while (put := self._put.get()) is not None:
            loop, work = put
            work.run()
            with suppress(RuntimeError):  # the loop was closed while it ran
                loop.call_soon_threadsafe(self._on_done, work)


def _be_nice(niceness: int) -> None:
    """Lower the priority of this thread; where that may not be, it only is in the way of others."""
    if sys.platform != "linux":  # elsewhere the priority is the process's
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        usual = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(usual + niceness, 19))
