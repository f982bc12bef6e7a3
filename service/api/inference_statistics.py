"""What was inferred under `/v2`, as Triton's statistics extension has it."""

from typing import Any

from service.telemetry.totals import Totals

_REQUESTS, _SECONDS = "carry_inference_requests_total", "carry_inference_seconds_total"
_LAST = "carry_inference_last_success_timestamp_seconds"


def statistics_of(totals: Totals, name: str, version: str) -> dict[str, Any]:
    """Of all workers, since the service began. Waiting for the graph counts as its time."""

    def total(series: str, label: str = "") -> float:
        return totals.of(name, version, series, label)

    def timed(number: float, *parts: str) -> dict[str, int]:
        seconds = sum(total(_SECONDS, part) for part in parts)
        return {"count": int(number), "ns": int(seconds * 1e9)}

    count = total(_REQUESTS, "success")
    return {
        "name": name,
        "version": version,
        "last_inference": round(total(_LAST) * 1000),
        "inference_count": int(total("carry_inference_rows_total")),
        "execution_count": int(total("carry_batch_rows_count")),
        "inference_stats": {
            "success": timed(count, "read", "run", "write"),
            "fail": timed(total(_REQUESTS, "failure"), "failed"),
            "queue": timed(count),
            "compute_input": timed(count, "read"),
            "compute_infer": timed(count, "run"),
            "compute_output": timed(count, "write"),
            "cache_hit": timed(0),
            "cache_miss": timed(0),
        },
        "batch_stats": [],
    }
