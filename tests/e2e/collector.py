"""A collector of traces: OTLP over HTTP, decoded, for tests to wait on."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.system import in_thread

AT_MOST_S = 20


class Span:
    """A span as it came, with its attributes as a dict."""

    def __init__(self, resource, span):
        self.resource = {each.key: each.value.string_value for each in resource.attributes}
        self.name = span.name
        self.kind = span.kind
        self.trace_id, self.span_id = span.trace_id.hex(), span.span_id.hex()
        self.parent_id = span.parent_span_id.hex()
        self.began, self.ended = span.start_time_unix_nano, span.end_time_unix_nano
        self.links = {(link.trace_id.hex(), link.span_id.hex()) for link in span.links}
        self.has_failed = span.status.code == 2
        self.attributes = {
            each.key: getattr(each.value, each.value.WhichOneof("value"))
            for each in span.attributes
        }

    @property
    def own_link(self):
        return self.trace_id, self.span_id


class Collector:
    def __init__(self):
        self._spans = []
        self._came = threading.Condition()

    def take(self, body):
        asked = ExportTraceServiceRequest.FromString(body)
        with self._came:
            for each in asked.resource_spans:
                for scope in each.scope_spans:
                    self._spans += [Span(each.resource, span) for span in scope.spans]
            self._came.notify_all()

    @property
    def spans(self):
        with self._came:
            return list(self._spans)

    def wait_for(self, is_enough):
        """The spans, as soon as those so far are enough."""
        with self._came:
            came = self._came.wait_for(lambda: is_enough(self._spans), AT_MOST_S)
            assert came, [(span.name, span.trace_id) for span in self._spans]
            return list(self._spans)

    def wait_for_trace(self, trace_id, *names):
        """The spans of one trace by name, as soon as these are there."""

        def of_trace(spans):
            return {span.name: span for span in spans if span.trace_id == trace_id}

        return of_trace(self.wait_for(lambda spans: {*names} <= of_trace(spans).keys()))


@contextmanager
def collecting():
    """A collector and its address."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *said):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with server, in_thread(server.serve_forever, stop=server.shutdown):
        yield collector, f"http://127.0.0.1:{server.server_port}"
