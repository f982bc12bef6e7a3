"""The thread of one model, in which its longer batches run.

Rule 1: batches run one after another, in the order in which they were put; each comes back on the
        event loop.
Rule 2: the thread does nothing but call the graph, during which Python is free for everybody else.

The worker owns it, and closes it when nothing is under way any more.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

from service.engine.runner import Batch


class GraphThread:
    def __init__(
        self, name: str, loop: asyncio.AbstractEventLoop, on_done: Callable[[Batch], None]
    ) -> None:
        self._loop = loop
        self._on_done = on_done
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> None:
        self._batches.put(batch)

    def close(self) -> None:
        """Return when the last batch has run."""
        self._batches.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            batch.run()
            self._loop.call_soon_threadsafe(self._on_done, batch)
