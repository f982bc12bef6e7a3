"""Python's garbage collector, settled for a server that has started.

What lives as long as the process is taken out of the collector's sight, and what a step allocates
is freed by its reference count: full collections, which stop every client for tens of milliseconds,
become rare.
"""

import gc

_THRESHOLDS = (50_000, 20, 100)


def settle_collector() -> None:
    """Call once, when models are loaded and before requests come."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
