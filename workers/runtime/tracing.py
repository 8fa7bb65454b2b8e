"""Exports the spans of this process to an OpenTelemetry collector in the background.

Used in the front-end and in workers, and imported only where tracing is configured. Ended spans
flow in, batches of them flow out over OTLP/HTTP from a thread. A collector that is slow or absent
delays nobody: spans that can't be sent in time are dropped.
"""

from __future__ import annotations

import os
import threading
import time
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from workers.runtime.logs import ProcessName
from workers.runtime.messages import Job
from workers.runtime.spec import InstanceSpec, TracingSpec

__all__ = ["BatchSpans", "Spans", "describe_batch", "pack", "wall_ns"]

_TRACE_BYTES, _SPAN_BYTES = 16, 8
_EXPORT_INTERVAL_MS = 1000
_MAX_QUEUED_SPANS = 2048
_EXPORT_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 1.0


class Spans:
    """Creates the spans of this process and exports them."""

    def __init__(self, spec: TracingSpec, name: ProcessName) -> None:
        process: dict[str, str | int] = {
            "service.name": spec.service_name,
            "service.version": version("ensembled"),
            "process.pid": os.getpid(),
            "ensembled.role": name.role,
        }
        # Sampling is decided by the callers.
        self._provider = TracerProvider(
            ALWAYS_ON, Resource.create({**process}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(spec.endpoint, timeout=_EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, _MAX_QUEUED_SPANS, _EXPORT_INTERVAL_MS)
        )
        self.start = self._provider.get_tracer("ensembled").start_span

    def close(self) -> None:
        """Send what is pending, for at most a second; for the end of the process."""
        sender = threading.Thread(target=self._provider.shutdown, name="span export", daemon=True)
        sender.start()
        sender.join(_CLOSE_TIMEOUT_S)


class BatchSpans:
    """A worker's spans: one per batch and traced request with rows in it.

    Each is a child of its request's span; those of one batch link to the first of them.
    """

    def __init__(self, spec: TracingSpec, device: str) -> None:
        self._spans = Spans(spec, ProcessName("worker", device))
        self._device = device
        self.close = self._spans.close

    def record(
        self, job: Job, instance: InstanceSpec, began_ns: int, ended_ns: int, error: str
    ) -> None:
        """Record a batch that is over, by the monotonic clock; `error` is that of failed rows."""
        member = instance.source.member
        attributes = describe_batch(member, self._device, job.id, job.ranges)
        links: list[Link] = []
        for trace in job.traces:
            span = self._spans.start(
                f"predict {member}", _parent(trace), attributes=attributes, links=links,
                start_time=wall_ns(began_ns),
            )  # fmt: skip
            if error:
                span.set_status(Status(StatusCode.ERROR, error))
            span.end(wall_ns(ended_ns))
            links = links or [Link(span.get_span_context())]


def describe_batch(
    member: str, device: str, job: int, ranges: tuple[tuple[int, int], ...]
) -> dict[str, str | int]:
    """Return the attributes of a span of a batch."""
    return {
        "ensembled.member": member,
        "ensembled.device": device,
        "ensembled.job": job,
        "ensembled.batch.rows": sum(stop - start for start, stop in ranges),
        "ensembled.batch.ranges": " ".join(f"[{start},{stop})" for start, stop in ranges),
    }


def pack(context: SpanContext) -> bytes:
    """Encode a span for messages: 16 bytes of the trace, 8 of the span."""
    return context.trace_id.to_bytes(_TRACE_BYTES) + context.span_id.to_bytes(_SPAN_BYTES)


def _parent(packed: bytes) -> Context:
    trace_id, span_id = packed[:_TRACE_BYTES], packed[_TRACE_BYTES:]
    sampled = TraceFlags(TraceFlags.SAMPLED)
    context = SpanContext(
        int.from_bytes(trace_id), int.from_bytes(span_id), is_remote=True, trace_flags=sampled
    )
    return set_span_in_context(NonRecordingSpan(context))


def wall_ns(monotonic_ns: int) -> int:
    """Convert a monotonic time to ns since 1970, which collectors can compare across machines."""
    return time.time_ns() - time.monotonic_ns() + monotonic_ns
