"""Tracing: which requests are traced, and the front-end's spans.

Runs in the front-end, and is imported only if tracing is configured. A request that comes with a
sampled W3C ``traceparent``, or without one and is drawn by lot, has a span, with children::

    server span  POST /v2/models/{model}/infer
      +-- input      read, decoded, checked
      +-- queue      until the last of its batches went to a worker
      +-- infer      until its last row was combined
      +-- output     encoded
      +-- predict M  a batch of a member, by the worker that ran it (see `workers.runtime.tracing`)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from allocator.dispatch.state import OpenJob
from server.engine.arena_requests import ArenaRequests
from server.engine.request import Answer
from server.errors import RequestError
from workers.runtime.logs import ProcessName
from workers.runtime.spec import TracingSpec
from workers.runtime.tracing import Spans, describe_batch, pack, wall_ns

__all__ = ["JobTraces", "RequestTrace", "Tracer"]

_propagator = TraceContextTextMapPropagator()
_SERVER_ERROR = 500


class Tracer:
    """Decides which requests are traced, and begins traces; `in_flight` counts the open ones."""

    def __init__(self, spec: TracingSpec) -> None:
        self.in_flight = 0
        self._sample = spec.sample
        self._spans = Spans(spec, ProcessName("front-end"))
        self.start = self._spans.start
        self.close = self._spans.close

    def of_jobs(self, arenas: Mapping[int, ArenaRequests]) -> JobTraces:
        """The traces of the requests in jobs, by the requests of each arena."""
        return JobTraces(self, arenas)

    def begin(
        self, name: str, carrier: Mapping[str, str], about: Mapping[str, str]
    ) -> RequestTrace | None:
        """Begin the trace of a request, if it is to be traced; its `end` must be called.

        `carrier` is what the client sent: ``traceparent`` and ``tracestate``, if at all; `about`
        are attributes of the span.
        """
        parent = _propagator.extract(carrier, Context()) if carrier else Context()
        given = get_current_span(parent).get_span_context()
        wanted = given.trace_flags.sampled if given.is_valid else random.random() < self._sample
        if not wanted:
            return None
        self.in_flight += 1
        return RequestTrace(self, self.start(name, parent, SpanKind.SERVER, about))


class RequestTrace:
    """The trace of one request.

    `trace_id` is 32 hexadecimal digits; `packed` is its span, as workers get it; `accepted` is when
    the engine accepted it, on the monotonic clock; 0 if it has not.
    """

    def __init__(self, tracer: Tracer, span: Span) -> None:
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        self.packed = pack(context)
        self.accepted = 0.0
        self._tracer, self._span = tracer, span
        self._began = time.monotonic()
        self._answer: Answer | None = None

    def answered(self, answer: Answer, members: Sequence[str]) -> None:
        """Note the answer, and the members that it rests on."""
        self._answer = answer
        self._span.set_attribute("ensembled.rows", answer.rows)
        self._span.set_attribute("ensembled.members", tuple(members))

    def end(self, error: BaseException | None = None) -> None:
        """The request is over, with an error or without."""
        now = time.monotonic()
        steps = [("input", self._began, self.accepted or now)]
        if (answer := self._answer) is not None:
            steps.append(("queue", answer.accepted, answer.started))
            steps.append(("infer", answer.started, answer.ended))
            steps.append(("output", answer.ended, now))
        for name, since, until in steps:
            self.child(name, since).end(_ns(until))
        if error is not None:
            self._span.set_attribute("error.type", type(error).__name__)
            if _is_ours(error):
                self._span.set_status(Status(StatusCode.ERROR, str(error)))
        self._span.end(_ns(now))
        self._tracer.in_flight -= 1

    def child(self, name: str, since: float, about: Mapping[str, str | int] | None = None) -> Span:
        """Begin a span within the request's, at a time on the monotonic clock."""
        parent = set_span_in_context(self._span)
        return self._tracer.start(name, parent, attributes=about, start_time=_ns(since))


class JobTraces:
    """The traces of the requests in a job."""

    def __init__(self, tracer: Tracer, arenas: Mapping[int, ArenaRequests]) -> None:
        self._tracer = tracer
        self._arenas = arenas

    def packed(self, job: OpenJob) -> tuple[bytes, ...]:
        """The spans' contexts, as the worker gets them."""
        return tuple(trace.packed for trace in self._of(job))

    def lost(self, job: OpenJob) -> None:
        """Record a job whose worker died before it could."""
        member, device = job.placement.member.name, job.placement.device.name
        about = describe_batch(member, device, job.id, tuple(job.ranges))
        for trace in self._of(job):
            span = trace.child(f"predict {member}", job.opened, about)
            span.set_status(Status(StatusCode.ERROR, f"worker {device} died"))
            span.end()

    def _of(self, job: OpenJob) -> Sequence[RequestTrace]:
        if not self._tracer.in_flight:
            return ()
        traces = self._arenas[job.placement.member.arena].traces(job.ranges)
        return [trace for trace in traces if isinstance(trace, RequestTrace)]


def _is_ours(error: BaseException) -> bool:
    """Whether a request failed through no fault of its client, which was still connected."""
    if isinstance(error, asyncio.CancelledError) or getattr(error, "outcome", "") == "disconnected":
        return False
    return not isinstance(error, RequestError) or error.http_status >= _SERVER_ERROR


def _ns(monotonic_s: float) -> int:
    return wall_ns(int(monotonic_s * 1e9))
