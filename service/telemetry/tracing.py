"""OpenTelemetry traces, sent as OTLP over HTTP. Imported only if CARRY_OTLP_ENDPOINT is set.

A sampled request is a trace of its own, or a part of its caller's (`traceparent`):

    POST /v1/sessions/{session}/steps     from the first byte to the response
        queue                             waiting for the graph
        graph                             running; linked to its batches
        commit                            packed and stored

Each call of a graph is a trace with one span, `batch`, linked to the sampled requests in it.

Rule 1: the spans of a request are created when it ends, from the marks of its timing.
Rule 2: a caller's sampling decision is followed; else the ratio decides. A request that is not
        sampled has a plain timing and no trace id. A batch is sampled if a request in it is.
Rule 3: the collector may be slow or unreachable: finished spans wait in a bounded queue, and a
        thread of the SDK sends them. If the queue is full they are dropped. `close` sends the rest.
"""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import random

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes, AttributeValue

from service.engine.graph.runner import Batch
from service.engine.models.loaded_model import LoadedModel
from service.engine.timing import RequestTiming

log = structlog.get_logger()

_EXPORT_S = 3.0
_CLOSE_S = 5.0
_MAX_LINKS = 128
_W3C = TraceContextTextMapPropagator()


class Tracing:
    """Owned by the application, which calls `close`; its thread is a daemon."""

    def __init__(self, endpoint: str, ratio: float, version: str) -> None:
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", "carry"),
                "service.version": version,
                "service.instance.id": str(uuid.uuid4()),
            }
        )
        self._ratio = ratio
        # A span without a parent is created only if its request is sampled.
        sampler = ParentBased(ALWAYS_ON)
        self._provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer("carry", version)

    def begin(self, headers: Mapping[bytes, bytes], *, is_linked: bool = False) -> RequestTiming:
        """The timing of a request with these headers.

        `is_linked`: one of several requests with these headers, each of which is its own trace.
        """
        parent = _parent_of(headers)
        is_part = parent is not None and not is_linked
        if not is_part and random() >= self._ratio:  # noqa: S311 -- sampling, not a secret
            return RequestTiming()
        links = [] if is_part or parent is None else [Link(parent)]
        return TracedTiming(self, parent if is_part else None, links)

    async def close(self) -> None:
        """Send the remaining spans, for a few seconds at most."""
        loop, is_sent = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop was closed after the timeout
                loop.call_soon_threadsafe(is_sent.set)

        threading.Thread(target=shut_down, name="last spans", daemon=True).start()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await is_sent.wait()
        except TimeoutError:
            log.warning("the trace collector did not accept the last spans", within_s=_CLOSE_S)


class TracedTiming(RequestTiming):
    """A timing that is exported as spans."""

    __slots__ = ("_batches", "_first_s", "_span", "_tracing", "_wall_ns")

    def __init__(self, tracing: Tracing, parent: SpanContext | None, links: list[Link]) -> None:
        super().__init__()
        self._tracing = tracing
        self._wall_ns = time.time_ns()
        self._first_s = 0.0
        self._batches: list[Link] = []
        self._span = tracing.tracer.start_span(
            "request", _within(parent), SpanKind.SERVER, links=links, start_time=self._wall_ns
        )

    @property
    def context(self) -> SpanContext:
        return self._span.get_span_context()

    @property
    def trace_id(self) -> str:
        return format_trace_id(self.context.trace_id)

    @property
    def traceparent(self) -> str:
        context = self.context
        return f"00-{self.trace_id}-{format_span_id(context.span_id)}-{context.trace_flags:02x}"

    @property
    def is_sampled(self) -> bool:
        return self._span.is_recording()

    def ran(self, batch: Batch) -> None:
        super().ran(batch)
        self._first_s = self._first_s or batch.began_s

    def ran_together(
        self, timings: Sequence[RequestTiming], model: LoadedModel, batch: Batch
    ) -> None:
        traced = [timing for timing in timings if isinstance(timing, TracedTiming)]
        span = self._tracing.tracer.start_span(
            "batch",
            _within(None),
            links=[Link(timing.context) for timing in traced[:_MAX_LINKS]],
            attributes=_of_model(model)
            | {"carry.rows": len(batch.lengths), "carry.cells": batch.num_cells},
            start_time=self._wall(batch.began_s),
        )
        if batch.error is not None:
            span.set_status(StatusCode.ERROR, type(batch.error).__name__)
        span.end(self._wall(batch.began_s + batch.ort_s))
        link = Link(span.get_span_context())
        for timing in traced:
            if len(timing._batches) < _MAX_LINKS:
                timing._batches.append(link)

    def end(
        self,
        name: str,
        ended_s: float,
        attributes: Mapping[str, AttributeValue],
        *,
        has_failed: bool,
    ) -> None:
        span = self._span
        if self.is_sampled:
            span.update_name(name)
            model = {} if self.model is None else _of_model(self.model)
            span.set_attributes({**attributes, **model})
            if has_failed:
                span.set_status(StatusCode.ERROR)
            self._export_parts(ended_s)
        span.end(self._wall(ended_s))

    def _export_parts(self, ended_s: float) -> None:
        if self.queued_s:
            self._export("queue", self.queued_s, self._first_s or ended_s)
        if self.ran_s:
            attributes = {"carry.batches": self.num_batches, "carry.graph_s": self.graph_s}
            self._export("graph", self._first_s, self.ran_s, attributes, self._batches)
        if self.committed_s:
            self._export("commit", self.ran_s or self.began_s, self.committed_s)

    def _export(
        self,
        name: str,
        began_s: float,
        ended_s: float,
        attributes: Attributes = None,
        links: list[Link] | None = None,
    ) -> None:
        span = self._tracing.tracer.start_span(
            name,
            _within(self.context),
            attributes=attributes,
            links=links,
            start_time=self._wall(began_s),
        )
        span.end(self._wall(ended_s))

    def _wall(self, at_s: float) -> int:
        """A mark as nanoseconds since 1970."""
        return self._wall_ns + int((at_s - self.began_s) * 1e9)


def _parent_of(headers: Mapping[bytes, bytes]) -> SpanContext | None:
    """The caller's span, from a valid `traceparent`."""
    if not headers.get(b"traceparent"):
        return None
    carrier = {
        name: headers.get(name.encode(), b"").decode("latin-1")
        for name in ("traceparent", "tracestate")
    }
    context = get_current_span(_W3C.extract(carrier, Context())).get_span_context()
    return context if context.is_valid else None


def _within(parent: SpanContext | None) -> Context:
    return Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())


def _of_model(model: LoadedModel) -> dict[str, AttributeValue]:
    return {"carry.model": model.name, "carry.version": model.version}
