"""A collector of spans: takes OTLP over HTTP and keeps what it gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serving import wait_for


class Span(NamedTuple):
    """A span; ids are hexadecimal."""

    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    is_error: bool
    links: tuple[str, ...]
    about: dict[str, Any]
    process: dict[str, Any]


def _attributes(attributes: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [plain(item) for item in value.array_value.values]
        return getattr(value, kind)

    return {attribute.key: plain(attribute.value) for attribute in attributes}


def _read(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        process = _attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == 2,
                    tuple(link.span_id.hex() for link in span.links),
                    _attributes(span.attributes),
                    process,
                )


class Collector:
    """What was sent to `url`, and with which keys."""

    def __init__(self) -> None:
        collector = self
        self._spans: list[Span] = []
        self.keys: set[str | None] = set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                collector._spans += _read(body)
                collector.keys.add(self.headers["Authorization"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self, trace: str = "") -> list[Span]:
        """All spans, or those of a trace, in the order of their beginning."""
        spans = [span for span in list(self._spans) if span.trace == trace or not trace]
        return sorted(spans, key=lambda span: span.start_ns)

    def wait_spans(self, trace: str, count: int) -> list[Span]:
        """Wait until so many spans of a trace are there."""
        wait_for(lambda: len(self.spans(trace)) >= count, f"{count} spans", 60)
        return self.spans(trace)


@contextmanager
def collecting(collector: Collector | None = None) -> Iterator[Collector]:
    """A collector that answers, a new one or one that has only listened so far."""
    collector = collector or Collector()
    thread = threading.Thread(target=collector.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()
