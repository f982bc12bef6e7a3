"""Prometheus metrics of the engine and the transports, with their help texts.

Each application has its own registry, so several can live in one process (tests do so).
"""

import os
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics

from service.errors import RecordUnreadableError, VersionGoneError
from service.telemetry.inference import InferenceMetrics
from service.telemetry.totals import Totals

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series

_LATENCY_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5,
    5, 10, 30,
)  # fmt: skip
_SHORT_S = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_MODEL = ("model", "version")
_IS_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR" in os.environ  # as prometheus_client reads it
_OPEN_METRICS = "application/openmetrics-text"

StreamKind = Literal["websocket", "events"]


class Metrics:
    """Implements the engine's `Observer`; the HTTP layer reports through `request_answered`."""

    def __init__(self, service_version: str) -> None:
        self.registry = CollectorRegistry()
        # Looking up a child by its labels costs more than counting.
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        reg = self.registry
        self._requests = Counter(
            "carry_http_requests", "HTTP requests answered.", ("method", "route", "status"),
            registry=reg,
        )  # fmt: skip
        self._request_s = Histogram(
            "carry_http_request_seconds",
            "Time from the first byte to the last, except for event streams.",
            ("method", "route"), buckets=_LATENCY_S, registry=reg,
        )  # fmt: skip
        self._batch_rows = Histogram(
            "carry_batch_rows", "Rows of one call of a graph.", _MODEL, buckets=_ROWS, registry=reg
        )
        self._ort_s = Histogram(
            "carry_ort_seconds", "Time of one call of a graph in ONNX Runtime.", _MODEL,
            buckets=_SHORT_S, registry=reg,
        )  # fmt: skip
        self._queue = Gauge(
            "carry_queue_depth", "Work waiting for a graph or in it.", _MODEL, registry=reg,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self._steps = Counter("carry_steps", "Steps committed.", _MODEL, registry=reg)
        self._predictions = Counter(
            "carry_predictions", "Instances predicted without a session.", _MODEL, registry=reg
        )
        self._not_finite = Counter(
            "carry_rows_not_finite",
            "Rows of calls that were refused: their outputs or new states were inf or NaN.",
            _MODEL, registry=reg,
        )  # fmt: skip
        self._cached = Gauge(
            "carry_sessions_cached", "Sessions held in memory.", registry=reg,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self._state_bytes = Gauge(
            "carry_state_bytes_cached", "Bytes of states held in memory.", registry=reg,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self._created = Counter("carry_sessions_created", "Sessions opened.", _MODEL, registry=reg)
        self._ended = Counter(
            "carry_sessions_ended",
            "Sessions ended: deleted, final, expired or replaced by a new start.",
            (*_MODEL, "reason"), registry=reg,
        )  # fmt: skip
        self._operated = Counter(
            "carry_session_operations", "Forks, rewinds, restores and upgrades of sessions.",
            (*_MODEL, "operation"), registry=reg,
        )  # fmt: skip
        self._commit_s = Histogram(
            "carry_commit_seconds", "Time of one group commit.", buckets=_LATENCY_S, registry=reg
        )
        self._commit_rows = Histogram(
            "carry_commit_rows", "Sessions in one group commit.", buckets=_ROWS, registry=reg
        )
        self._refusals = Counter(
            "carry_session_errors", "Requests of sessions that ended with an error, by its code.",
            ("code",), registry=reg,
        )  # fmt: skip
        for error in (VersionGoneError, RecordUnreadableError):
            self._refusals.labels(error.code)  # 0 from the start: an alert uses their increase
        self._conflicts = Counter(
            "carry_commit_conflicts",
            "Writes refused because another writer committed first.",
            registry=reg,
        )
        self._store_errors = Counter(
            "carry_store_errors", "Group commits that the store failed.", registry=reg
        )
        kind = ("kind",)
        self._streams_open = Gauge(
            "carry_streams_open", "Streams that are open.", kind, registry=reg,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self._streams = Counter("carry_streams", "Streams opened.", kind, registry=reg)
        self._messages = Counter(
            "carry_stream_messages", "Answers and events sent over streams.", kind, registry=reg
        )
        self._resumes = Counter(
            "carry_stream_resumes",
            "Streams that resumed an earlier one.",
            kind, registry=reg,
        )  # fmt: skip
        self._sent = {each: self._messages.labels(each) for each in get_args(StreamKind)}
        for each in get_args(StreamKind):
            for metric in (self._streams_open, self._streams, self._resumes):
                metric.labels(each)
        self._loaded = Gauge(
            "carry_model_loaded",
            "1 for each loaded model; removed after unloading, or 0 with several workers.",
            (*_MODEL, "provider"), registry=reg, multiprocess_mode="livemax",
        )  # fmt: skip
        self._refused = Gauge(
            "carry_bundles_refused", "Bundles refused at load.", registry=reg,
            multiprocess_mode="livemax",
        )  # fmt: skip
        self._keys_file = Gauge(
            "carry_keys_file_valid",
            "0 while the file of API keys is missing, empty or broken, else 1.", registry=reg,
            multiprocess_mode="livemin",
        )  # fmt: skip
        self._keys_file.set(1)
        build = Gauge(
            "carry_build_info", "1; the version is a label.", ("version",), registry=reg,
            multiprocess_mode="livemax",
        )  # fmt: skip
        build.labels(service_version).set(1)
        self._models: set[tuple[str, str, str]] = set()
        self._shown_at_once = (
            self._queue, self._steps, self._predictions, self._created, self._batch_rows,
            self._ort_s, self._not_finite,
        )  # fmt: skip
        self.inference = InferenceMetrics(reg)
        self._of_models = (
            *self._shown_at_once, self._ended, self._operated, *self.inference.of_models
        )  # fmt: skip

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics of all workers, and their media type.

        OpenMetrics with exemplars if the client accepts it, as Prometheus does; else the older
        text format. Over several workers the values are summed, without exemplars.
        """
        registry = self._registry_of_all()
        if _OPEN_METRICS in accept:
            body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
            return body, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4

    def totals(self) -> Totals:
        """The totals of every model, of all workers."""
        return Totals(self._registry_of_all().collect())

    def _registry_of_all(self) -> CollectorRegistry:
        if not _IS_MULTIPROCESS:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    def keys_file_looked_at(self, is_valid: bool) -> None:
        self._keys_file.set(is_valid)

    def models_changed(self, loaded: set[tuple[str, str, str]], num_refused: int) -> None:
        """A model has series while it is loaded.

        With several workers a series cannot be removed: there it becomes 0.
        """
        for model, version, provider in self._models - loaded:
            self._loaded.labels(model, version, provider).set(0)
            self._queue.labels(model, version).set(0)
            if not _IS_MULTIPROCESS:
                self._loaded.remove(model, version, provider)
                for metric in self._of_models:
                    metric.remove_by_labels({"model": model, "version": version})
                self.inference.forget(model, version)
        for model, version, provider in loaded - self._models:
            self._loaded.labels(model, version, provider).set(1)
            for metric in self._shown_at_once:
                metric.labels(model, version)
        self._models = loaded
        self._refused.set(num_refused)

    def request_answered(
        self,
        method: str,
        route: str,
        status: int,
        seconds: float | None,
        exemplar: dict[str, str] | None = None,
    ) -> None:
        """`seconds`: None for an event stream. `exemplar`: labels that identify the trace."""
        key = (method, route, status)
        children = self._answered.get(key)
        if children is None:
            counter = self._requests.labels(method, route, status)
            children = self._answered[key] = (counter, self._request_s.labels(method, route))
        children[0].inc()
        if seconds is not None:
            children[1].observe(seconds, exemplar)

    def stream_opened(self, kind: StreamKind) -> None:
        self._streams.labels(kind).inc()
        self._streams_open.labels(kind).inc()

    def stream_closed(self, kind: StreamKind) -> None:
        self._streams_open.labels(kind).dec()

    def stream_resumed(self, kind: StreamKind) -> None:
        """At most once per stream."""
        self._resumes.labels(kind).inc()

    def stream_sent(self, kind: StreamKind, num_messages: int) -> None:
        self._sent[kind].inc(num_messages)

    def batch_ran(self, model: str, version: str, num_rows: int, ort_s: float) -> None:
        self._batch_rows.labels(model, version).observe(num_rows)
        self._ort_s.labels(model, version).observe(ort_s)

    def rows_refused(self, model: str, version: str, num_rows: int) -> None:
        self._not_finite.labels(model, version).inc(num_rows)

    def queue_changed(self, model: str, version: str, num_waiting: int) -> None:
        self._queue.labels(model, version).set(num_waiting)

    def session_created(self, model: str, version: str) -> None:
        self._created.labels(model, version).inc()

    def session_ended(self, model: str, version: str, reason: str) -> None:
        self._ended.labels(model, version, reason).inc()

    def session_operated(self, model: str, version: str, operation: str) -> None:
        self._operated.labels(model, version, operation).inc()

    def steps_committed(self, model: str, version: str, count: int) -> None:
        self._steps.labels(model, version).inc(count)

    def predicted(self, model: str, version: str, num_instances: int) -> None:
        self._predictions.labels(model, version).inc(num_instances)

    def group_committed(self, num_rows: int, commit_s: float) -> None:
        self._commit_rows.observe(num_rows)
        self._commit_s.observe(commit_s)

    def request_refused(self, code: str) -> None:
        self._refusals.labels(code).inc()

    def commit_conflicted(self) -> None:
        self._conflicts.inc()

    def store_failed(self) -> None:
        self._store_errors.inc()

    def cache_changed(self, num_sessions: int, state_bytes: int) -> None:
        self._cached.set(num_sessions)
        self._state_bytes.set(state_bytes)
