"""A thread of one model, in which longer batches run.

Rule 1: batches run one after another, in the order in which they were put; each comes back on the
        event loop.
Rule 2: the thread does nothing but call the graph, during which Python is free for everybody else.
Rule 3: where it is nice, the processors belong to whoever else wants them (on Linux, where threads
        have priorities of their own).

The worker owns it, and closes it when nothing is under way any more. Its first batch starts it.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from service.engine.runner import Batch


class GraphThread:
    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        on_done: Callable[[Batch], None],
        niceness: int = 0,
    ) -> None:
        self._name = name
        self._loop = loop
        self._on_done = on_done
        self._niceness = niceness
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, batch: Batch) -> None:
        self._batches.put(batch)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Return when the last batch has run."""
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join()

    def _run(self) -> None:
        if self._niceness:
            _be_nice(self._niceness)
        while (batch := self._batches.get()) is not None:
            batch.run()
            self._loop.call_soon_threadsafe(self._on_done, batch)


def _be_nice(niceness: int) -> None:
    """Lower the priority of this thread; where that may not be, it only is in the way of others."""
    if sys.platform != "linux":  # elsewhere the priority is the process's
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        usual = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(usual + niceness, 19))
