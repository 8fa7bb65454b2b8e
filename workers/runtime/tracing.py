"""Spans of this process, which OpenTelemetry sends to a collector in the background.

Used in the front-end and in workers, and imported only where tracing is configured. Spans flow in
when they are over, batches of them flow out over OTLP/HTTP, from a thread of their own. A collector
that is slow or not there delays nobody: what the thread can't send in time is dropped.
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

from workers.runtime.log_lines import Speaker
from workers.runtime.messages import Job
from workers.runtime.spec import InstanceSpec, TracingSpec

__all__ = ["BatchSpans", "Spans", "describe_batch", "pack", "wall_ns"]

_TRACE_BYTES, _SPAN_BYTES = 16, 8
_SEND_EVERY_MS = 1000
_MAX_WAITING = 2048
_EXPORT_S = 5.0
_CLOSE_S = 1.0


class Spans:
    """Makes spans of this process and has them sent.

    Args:
        spec: where to.
        speaker: the process, which the spans name.
    """

    def __init__(self, spec: TracingSpec, speaker: Speaker) -> None:
        process: dict[str, str | int] = {
            "service.name": spec.service_name,
            "service.version": version("ensembled"),
            "process.pid": os.getpid(),
            "ensembled.role": speaker.role,
        }
        # Whoever asks for a span has decided that it is wanted.
        self._provider = TracerProvider(
            ALWAYS_ON, Resource.create({**process}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(spec.endpoint, timeout=_EXPORT_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, _MAX_WAITING, _SEND_EVERY_MS)
        )
        self.start = self._provider.get_tracer("ensembled").start_span

    def close(self) -> None:
        """Send what waits, for a second at most. For the end of the process."""
        sender = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sender.start()
        sender.join(_CLOSE_S)


class BatchSpans:
    """A worker's spans: one for each traced request with rows in a batch.

    Each is a child of its request's span. Those of one batch link to the first of them.
    """

    def __init__(self, spec: TracingSpec, device: str) -> None:
        self._spans = Spans(spec, Speaker("worker", device))
        self._device = device
        self.close = self._spans.close

    def record(
        self, job: Job, instance: InstanceSpec, began_ns: int, ended_ns: int, error: str
    ) -> None:
        """Tell of a batch that is over.

        Args:
            job: the batch, with the traces of its requests.
            instance: what ran it.
            began_ns: on the monotonic clock.
            ended_ns: on the monotonic clock.
            error: what went wrong with some of its rows, empty if nothing did.
        """
        member = instance.source.member
        about = describe_batch(member, self._device, job.id, job.ranges)
        links: list[Link] = []
        for trace in job.traces:
            span = self._spans.start(
                f"predict {member}", _parent(trace), attributes=about, links=links,
                start_time=wall_ns(began_ns),
            )  # fmt: skip
            if error:
                span.set_status(Status(StatusCode.ERROR, error))
            span.end(wall_ns(ended_ns))
            links = links or [Link(span.get_span_context())]


def describe_batch(
    member: str, device: str, job: int, ranges: tuple[tuple[int, int], ...]
) -> dict[str, str | int]:
    """The attributes of a span about a batch."""
    return {
        "ensembled.member": member,
        "ensembled.device": device,
        "ensembled.job": job,
        "ensembled.batch.rows": sum(stop - start for start, stop in ranges),
        "ensembled.batch.ranges": " ".join(f"[{start},{stop})" for start, stop in ranges),
    }


def pack(context: SpanContext) -> bytes:
    """A span as messages name it: 16 bytes of the trace, 8 of the span."""
    return context.trace_id.to_bytes(_TRACE_BYTES) + context.span_id.to_bytes(_SPAN_BYTES)


def _parent(packed: bytes) -> Context:
    trace_id, span_id = packed[:_TRACE_BYTES], packed[_TRACE_BYTES:]
    sampled = TraceFlags(TraceFlags.SAMPLED)
    context = SpanContext(
        int.from_bytes(trace_id), int.from_bytes(span_id), is_remote=True, trace_flags=sampled
    )
    return set_span_in_context(NonRecordingSpan(context))


def wall_ns(monotonic_ns: int) -> int:
    """What the wall clock showed then, in ns since 1970: collectors compare machines."""
    return time.time_ns() - time.monotonic_ns() + monotonic_ns
