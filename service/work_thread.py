"""A thread for work that releases the GIL: calls of the graph, syncs of the disk.

Rule 1: work runs one piece at a time, in the order of `put`; `on_done` runs on the event loop that
        called `put`. A piece costs two switches between threads; an executor needs more.
Rule 2: `Work.run` stores its own errors and never raises.
Rule 3: if the system cannot start a thread, the event loop runs the work itself.
Rule 4: with a niceness, other threads have priority (on Linux, which has priorities of threads).

The owner closes it when no work is in progress. The first piece of work starts the thread.
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
        self._queue: SimpleQueue[tuple[asyncio.AbstractEventLoop, W] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, work: W) -> None:
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = self._started()
        if self._thread is not None:
            self._queue.put((loop, work))
        else:
            work.run()
            loop.call_soon(self._on_done, work)

    def close(self, *, waits: bool = True) -> None:
        """End the thread, and wait for its last piece of work.

        With `waits=False` return at once: the work still runs, but `on_done` may not be called.
        """
        if self._thread is not None:
            self._queue.put(None)
            if waits:
                self._thread.join()

    def _started(self) -> threading.Thread | None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left; the next piece tries again
            return None
        return thread

    def _run(self) -> None:
        if self._niceness:
            _be_nice(self._niceness)
        while (item := self._queue.get()) is not None:
            loop, work = item
            work.run()
            with suppress(RuntimeError):  # the loop was closed while it ran
                loop.call_soon_threadsafe(self._on_done, work)


def _be_nice(niceness: int) -> None:
    """Lower the priority of this thread, if the system allows it."""
    if sys.platform != "linux":  # elsewhere the process has one priority
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        current = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(current + niceness, 19))
