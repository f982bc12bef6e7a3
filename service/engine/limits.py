"""What bounds the engine: its batches, its queues, its cache, and the time of a request."""

from dataclasses import dataclass

from service.engine.graph.batch_planner import BatchLimits

DEFAULT_BATCH = BatchLimits(max_rows=128, max_slice_steps=64, max_cells=2048)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of the engine; every queue is bounded by one of them."""

    batch: BatchLimits = DEFAULT_BATCH
    max_waiting_jobs: int = 4096
    max_waiting_steps: int = 1_000_000
    max_queue_s: float = 0.5
    cache_sessions: int = 100_000
    request_timeout_s: float = 30.0
