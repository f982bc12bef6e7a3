"""Counts and times of inference under `/v2`, for Triton's statistics, summed over all workers.

Rule 1: the counts are metrics, which `prometheus_client` sums over processes, including ended ones.
        So they never fall while a model is loaded, whichever worker answers.
Rule 2: times are multiples of 2⁻³⁰ s, about a nanosecond: such sums are exact (up to 97 days), in
        any order of the processes.
"""

import time
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge

_MODEL = ("model", "version")
_PARTS_OF_A_SECOND = 2**30


class _Success(NamedTuple):
    """The series of one model that every success adds to: looking them up costs more."""

    requests: Counter
    rows: Counter
    read_s: Counter
    run_s: Counter
    write_s: Counter
    last: Gauge


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
        self._of_success: dict[tuple[str, str], _Success] = {}
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
        of_model = self._of_success.get((model, version))
        if of_model is None:
            seconds = self._seconds
            of_model = self._of_success[model, version] = _Success(
                self._requests.labels(model, version, "success"),
                self._rows.labels(model, version),
                seconds.labels(model, version, "read"),
                seconds.labels(model, version, "run"),
                seconds.labels(model, version, "write"),
                self._last.labels(model, version),
            )
        of_model.requests.inc()
        of_model.rows.inc(num_rows)
        of_model.read_s.inc(_exact_s(read_ns))
        of_model.run_s.inc(_exact_s(run_ns))
        of_model.write_s.inc(_exact_s(written_ns))
        of_model.last.set(round(time.time(), 3))

    def forget(self, model: str, version: str) -> None:
        """Its series are removed: another model of this name has new ones."""
        self._of_success.pop((model, version), None)

    def failed(self, model: str, version: str, ns: int) -> None:
        self._requests.labels(model, version, "failure").inc()
        self._seconds.labels(model, version, "failed").inc(_exact_s(ns))


def _exact_s(ns: int) -> float:
    return round(ns * _PARTS_OF_A_SECOND / 1e9) / _PARTS_OF_A_SECOND
