"""OpenTelemetry traces that continue from the HTTP request through Kafka's headers to the insert.

The sampling decision comes first and the context is always propagated; spans are built for the sampled alone, because
tracing every request costs more than taking it.
"""

from __future__ import annotations

import os
import re
import threading
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer

from tidewatch import __version__
from tidewatch.settings import Telemetry

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LOW_64 = 2**64 - 1


class TraceContext(NamedTuple):
    """W3C trace context. `trace_id` has 128 bits, `span_id` 64."""

    trace_id: int
    span_id: int
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"

    @property
    def span_context(self) -> SpanContext:
        return SpanContext(self.trace_id, self.span_id, is_remote=True, trace_flags=TraceFlags(int(self.sampled)))

    @property
    def parent(self) -> Context:
        """For `tracer.start_span(context=…)`."""
        return trace.set_span_in_context(NonRecordingSpan(self.span_context))

    @property
    def link(self) -> Link:
        return Link(self.span_context)


def parse_traceparent(text: str) -> TraceContext | None:
    """None for anything that is not version 00 or holds a zero id, as the W3C recommendation demands."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    trace_id, span_id = int(match[1], 16), int(match[2], 16)
    if not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(match[3], 16) & 1))


class _ChosenIds(RandomIdGenerator):
    """Lets a span have the ids under which its context has been propagated already."""

    def __init__(self) -> None:
        self._chosen = threading.local()

    def choose(self, context: TraceContext | None) -> None:
        """For the next span of this thread; None: random ids again."""
        self._chosen.context = context

    def generate_span_id(self) -> int:
        context: TraceContext | None = getattr(self._chosen, "context", None)
        return context.span_id if context else super().generate_span_id()

    def generate_trace_id(self) -> int:
        context: TraceContext | None = getattr(self._chosen, "context", None)
        return context.trace_id if context else super().generate_trace_id()


class Tracing:
    """Makes trace contexts and spans for one service; `close` sends what is left."""

    def __init__(self, service: str, settings: Telemetry, exporter: SpanExporter | None = None) -> None:
        """`exporter` replaces the OTLP exporter that the settings ask for."""
        self._bound = TraceIdRatioBased.get_bound_for_rate(settings.sample_ratio)
        self._ids = _ChosenIds()
        self.provider = TracerProvider(
            id_generator=self._ids,
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=Resource.create({"service.name": service, "service.version": __version__}),
            shutdown_on_exit=False,
        )
        if exporter is None and settings.otlp_endpoint:
            exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
        if exporter is not None:
            self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer: Tracer = self.provider.get_tracer("tidewatch", __version__)

    def start(self, traceparent: str | None) -> TraceContext:
        """The context of a request: a child of the caller's, whose decision is kept, else a new one, sampled by ratio."""
        ids = int.from_bytes(os.urandom(24))
        span_id = ids & _LOW_64 or 1
        parent = parse_traceparent(traceparent) if traceparent else None
        if parent is not None:
            return TraceContext(parent.trace_id, span_id, parent.sampled)
        trace_id = ids >> 64 or 1
        # The sampler's own rule, so that it agrees when a span is built from this context.
        return TraceContext(trace_id, span_id, trace_id & _LOW_64 < self._bound)

    def span(
        self, name: str, context: TraceContext, traceparent: str | None = None, *, start_ns: int | None = None
    ) -> Span:
        """The server span of a request whose `context` came from `start(traceparent)`: it has that context's own ids."""
        parent = parse_traceparent(traceparent) if traceparent else None
        self._ids.choose(context)
        try:
            around = parent.parent if parent else Context()
            return self.tracer.start_span(name, around, SpanKind.SERVER, start_time=start_ns)
        finally:
            self._ids.choose(None)

    def close(self) -> None:
        self.provider.shutdown()
