"""What was inferred through the Open Inference Protocol since this process started, by model."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Figures:
    """Times in nanoseconds; `rows` are those of requests that succeeded."""

    rows: int = 0
    succeeded: int = 0
    failed: int = 0
    total_ns: int = 0
    failed_ns: int = 0
    read_ns: int = 0
    run_ns: int = 0
    written_ns: int = 0
    last_ms: int = 0


@dataclass(slots=True)
class InferenceFigures:
    """Bounded by the number of models that were ever loaded."""

    _models: dict[tuple[str, str], Figures] = field(default_factory=dict)

    def of(self, name: str, version: str) -> Figures:
        return self._models.setdefault((name, version), Figures())


def statistics_of(name: str, version: str, figures: Figures, num_batches: int) -> dict[str, Any]:
    """As Triton's statistics extension has them. Waiting for the graph counts as its time."""
    count = figures.succeeded

    def timed(number: int, ns: int) -> dict[str, int]:
        return {"count": number, "ns": ns}

    return {
        "name": name,
        "version": version,
        "last_inference": figures.last_ms,
        "inference_count": figures.rows,
        "execution_count": num_batches,
        "inference_stats": {
            "success": timed(count, figures.total_ns),
            "fail": timed(figures.failed, figures.failed_ns),
            "queue": timed(count, 0),
            "compute_input": timed(count, figures.read_ns),
            "compute_infer": timed(count, figures.run_ns),
            "compute_output": timed(count, figures.written_ns),
            "cache_hit": timed(0, 0),
            "cache_miss": timed(0, 0),
        },
        "batch_stats": [],
    }
