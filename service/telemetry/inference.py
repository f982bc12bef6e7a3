"""Counts and times of inference under `/v2`, for Triton's statistics, summed over all workers.

Rule 1: the counts are metrics, which `prometheus_client` sums over processes, including ended ones.
        So they never fall while a model is loaded, whichever worker answers.
Rule 2: times are multiples of 2⁻³⁰ s, about a nanosecond: such sums are exact (up to 97 days), in
        any order of the processes.
Rule 3: successes are added at the end of each turn of the event loop, before it reads another
        request: a client that has its response finds it counted.
"""

import asyncio
import time

from prometheus_client import CollectorRegistry, Counter, Gauge

_MODEL = ("model", "version")
_PARTS_OF_A_SECOND = 2**30


class _Successes:
    """Those of one model that are not in its series yet."""

    __slots__ = ("num_requests", "num_rows", "read_ns", "run_ns", "write_ns")

    def __init__(self) -> None:
        self.num_requests = self.num_rows = 0
        self.read_ns = self.run_ns = self.write_ns = 0


class InferenceMetrics:
    """Metrics of the inference routes under `/v2`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "carry_inference_requests",
            "Inference requests under /v2, by outcome: success or failure.",
            (*_MODEL, "outcome"), registry=registry,
        )  # fmt: skip
        self._rows = Counter(
            "carry_inference_rows",
            "Rows of inference requests under /v2 that succeeded.",
            _MODEL,
            registry=registry,
        )
        self._seconds = Counter(
            "carry_inference_seconds",
            "Time of inference requests under /v2, by part: reading, running and writing of those"
            " that succeeded, and all of those that failed.",
            (*_MODEL, "part"), registry=registry,
        )  # fmt: skip
        self._last = Gauge(
            "carry_inference_last_success_timestamp_seconds",
            "When the last inference request under /v2 succeeded.", _MODEL, registry=registry,
            multiprocess_mode="max",
        )  # fmt: skip
        self._successes: dict[tuple[str, str], _Successes] = {}
        self.of_models = (self._requests, self._rows, self._seconds, self._last)

    def succeeded(
        self,
        model: str,
        version: str,
        num_rows: int,
        read_ns: int,
        run_ns: int,
        written_ns: int,
    ) -> None:
        """On the event loop."""
        if not self._successes:
            asyncio.get_running_loop().call_soon(self._add_successes)
        found = self._successes.get((model, version))
        if found is None:
            found = self._successes[model, version] = _Successes()
        found.num_requests += 1
        found.num_rows += num_rows
        found.read_ns += read_ns
        found.run_ns += run_ns
        found.write_ns += written_ns

    def _add_successes(self) -> None:
        now_s = round(time.time(), 3)
        for (model, version), found in self._successes.items():
            self._requests.labels(model, version, "success").inc(found.num_requests)
            self._rows.labels(model, version).inc(found.num_rows)
            parts = ("read", found.read_ns), ("run", found.run_ns), ("write", found.write_ns)
            for part, ns in parts:
                self._seconds.labels(model, version, part).inc(_exact_s(ns))
            self._last.labels(model, version).set(now_s)
        self._successes.clear()

    def forget(self, model: str, version: str) -> None:
        """Its series are removed: another model of this name has new ones."""
        self._successes.pop((model, version), None)

    def failed(self, model: str, version: str, ns: int) -> None:
        self._requests.labels(model, version, "failure").inc()
        self._seconds.labels(model, version, "failed").inc(_exact_s(ns))


def _exact_s(ns: int) -> float:
    return round(ns * _PARTS_OF_A_SECOND / 1e9) / _PARTS_OF_A_SECOND
