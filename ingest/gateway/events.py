"""The routes that take events: plain ASGI, because a framework's route costs more than all of the rest together.

A request is counted, traced and limited here as the framework's middleware would do it. What each step costs stands in
docs/gateway-costs.md.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal

from confluent_kafka import KafkaError
from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from ingest.gateway import refusals
from ingest.gateway.answers import JSON, Fate, all_accepted, of_batch, of_single
from ingest.gateway.keys import key_of
from ingest.gateway.limits import TooLarge
from ingest.gateway.problems import MEDIA_TYPE, ProblemError, Rejection, unavailable
from ingest.gateway.sending import Stamp, event_ids, send_all, send_some
from ingest.gateway.services import Services
from ingest.gateway.validation import BAD_EVENT_ID, Checked, Validator, is_array, is_event_id, split
from tidewatch.contracts import ApiKey, Limit
from tidewatch.errors import KafkaUnavailable
from tidewatch.kafka.client import translate
from tidewatch.spec import Spec
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.traces import TraceContext, parse_traceparent

log = get_logger(__name__)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Headers = dict[bytes, bytes]
Takes = Literal["one", "many", "either"]
Answer = tuple[int, bytes]
_IDEMPOTENCY = b"idempotency-key"


class EventRoute:
    """One route of a pipeline whose events go straight to Kafka: an ASGI application."""

    def __init__(self, spec: Spec, path: str, takes: Takes, services: Services) -> None:
        self.spec = spec
        self.path = path
        self.takes = takes
        self._services = services
        self._validator = Validator(spec)
        self._fields = frozenset(["", "event_id", *(field.name for field in spec.schema_.fields)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers: Headers = dict(scope["headers"])
        given = headers.get(b"traceparent")
        traceparent = given.decode("latin-1") if given else None
        context = self._services.tracing.start(traceparent)
        if context.sampled and traceparent and not self._keeps(context, traceparent, headers):
            context = context._replace(sampled=False)
        if context.sampled:
            span = self._services.tracing.span(f"POST {self.path}", context, traceparent)
            status = await self._traced(scope, receive, send, context, span)
        else:
            status = await self._respond(scope, receive, send, headers, context)
        self._services.requests.count(self.path, scope["method"], status, time.perf_counter() - started)

    def _keeps(self, context: TraceContext, traceparent: str, headers: Headers) -> bool:
        """Whether a sampled trace is ours to keep: spans are dear, so a caller's flag counts with a key, and up to a rate."""
        parent = parse_traceparent(traceparent)
        if parent is None or parent.trace_id != context.trace_id:
            return True
        shown = key_of(headers)
        known = shown is not None and self._services.keys.find(shown) is not None
        return known and self._services.sampling.allows(self._services.clock.monotonic())

    async def _traced(self, scope: Scope, receive: Receive, send: Send, context: TraceContext, span: Span) -> int:
        with trace.use_span(span, end_on_exit=True):
            status = await self._respond(scope, receive, send, dict(scope["headers"]), context)
            span.set_attributes(
                {
                    "http.request.method": scope["method"],
                    "http.route": self.path,
                    "http.response.status_code": status,
                    "tidewatch.pipeline": self.spec.name,
                }
            )
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        return status

    async def _respond(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, context: TraceContext
    ) -> int:
        extra: list[tuple[bytes, bytes]] = []
        media = JSON
        try:
            status, body = await self._answer(scope, receive, headers, context)
        except ProblemError as problem:
            status, body, media, extra = problem.status, problem.encode(), MEDIA_TYPE, problem.headers
        except Exception:  # the boundary: whatever it is, the client gets an answer and we get the traceback
            # Named here, for only a sampled request has a span that the log would take it from.
            trace_id = f"{context.trace_id:032x}"
            log.exception("gateway.request_failed", pipeline=self.spec.name, trace_id=trace_id)
            status, body, media = 500, refusals.our_fault().encode(), MEDIA_TYPE
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", media), (b"content-length", b"%d" % len(body)), *extra],
            }
        )
        await send({"type": "http.response.body", "body": body})
        return status

    async def _answer(self, scope: Scope, receive: Receive, headers: Headers, context: TraceContext) -> Answer:
        if scope["method"] != "POST":
            raise refusals.wrong_method()
        address = ""
        if self._services.address_limits:
            address = self._services.addresses.of(scope, headers)
            self._take(address, self._services.address_limits, requests=1, events=0)
        key = self._authorise(headers)
        body = await self._services.body.read(headers, receive)
        checked = self._read(body, headers, key.project)
        count = len(checked.values)
        try:
            if key.limits:
                self._take(f"project {key.project}", key.limits, requests=1, events=count)
            if address:
                self._take(address, self._services.address_limits, requests=0, events=count)
        except ProblemError:
            self._services.accounting.turned_away(self.spec.name, key.project, "rate_limited", count)
            raise
        return await self._accept(checked, key.project, context)

    def _authorise(self, headers: Headers) -> ApiKey:
        shown = key_of(headers)
        key = self._services.keys.find(shown) if shown else None
        if key is None:
            raise refusals.unknown_key("unknown, or was revoked" if shown else "missing")
        if not key.allows(self.spec.name):
            raise refusals.forbidden(self.spec.name)
        return key

    def _take(self, holder: str, limits: tuple[Limit, ...], *, requests: int, events: int) -> None:
        now = self._services.clock.monotonic()
        try:
            wait = self._services.limiter.take(holder, limits, requests=requests, events=events, now=now)
        except TooLarge as never:
            raise refusals.beyond_limit(never.limit, events) from None
        if wait > 0:
            raise refusals.too_many(wait, limits)

    def _read(self, body: bytes, headers: Headers, project: str) -> Checked:
        if not is_array(body) and (self.takes != "many" or not body.strip()):
            return self._single(body, headers)
        try:
            values = split(body)
        except ValueError as error:
            self._services.accounting.refused(
                self.spec.name, project, Rejection("", "invalid_json", str(error)), known=True
            )
            raise refusals.malformed(str(error)) from None
        # Before they are judged one by one, which costs far more than counting them.
        if refusal := self._refused_whole(len(values), headers):
            if values:
                reason = refusal.kind.replace("-", "_")
                self._services.accounting.turned_away(self.spec.name, project, reason, len(values))
            raise refusal
        return self._validator.batch(body, values)

    def _refused_whole(self, events: int, headers: Headers) -> ProblemError | None:
        if self.takes == "one":
            return refusals.array_refused(self.spec)
        if not events:
            return refusals.malformed("the batch is empty")
        if events > self._services.max_batch_events:
            return refusals.too_many_events(events, self._services.max_batch_events)
        return refusals.key_for_a_batch() if _IDEMPOTENCY in headers else None

    def _single(self, body: bytes, headers: Headers) -> Checked:
        checked = self._validator.single(body)
        given = headers.get(_IDEMPOTENCY)
        if given is not None and not checked.rejections:
            event_id = given.decode("latin-1")
            own = checked.ids[0] if checked.ids else None
            if not is_event_id(event_id):
                checked.rejections[0] = Rejection("Idempotency-Key", "bad_event_id", BAD_EVENT_ID)
            elif own not in {None, event_id}:
                message = "event_id and Idempotency-Key differ; send one of them, or make them equal"
                checked.rejections[0] = Rejection("event_id", "bad_event_id", message)
            else:
                checked.ids = [event_id]
        return checked

    async def _accept(self, checked: Checked, project: str, context: TraceContext) -> Answer:
        ids = event_ids(checked, self._services.ids)
        stamp = Stamp(self.spec, project, context)
        try:
            if not checked.rejections:
                delivery = await send_all(self.spec, self._services.producer, checked, ids, stamp)
                if delivery.error is None:
                    size = sum(map(len, checked.values))
                    self._services.accounting.accepted(self.spec.name, project, len(ids), size)
                    return 202, b'{"event_id":"%s"}' % ids[0] if checked.single else all_accepted(ids)
                fates = [
                    Fate("unavailable" if value in delivery.failed else "accepted", event_id)
                    for value, event_id in zip(checked.values, ids, strict=True)
                ]
                failed: KafkaError | None = delivery.error
            else:
                fates, lost = await send_some(self.spec, self._services.producer, checked, ids, stamp)
                failed = lost.error if lost else None
        except KafkaUnavailable as error:
            self._services.accounting.turned_away(self.spec.name, project, "unavailable", len(ids))
            raise unavailable(error.what) from None
        self._account(fates, checked.values, project)
        why = _explain(failed)
        return of_single(fates[0], why, "event_id") if checked.single else of_batch(fates, why)

    def _account(self, fates: list[Fate], values: list[bytes], project: str) -> None:
        accounting, pipeline = self._services.accounting, self.spec.name
        for (status, _, rejection), value in zip(fates, values, strict=True):
            if status == "accepted":
                accounting.accepted(pipeline, project, 1, len(value))
            elif status == "unavailable":
                accounting.turned_away(pipeline, project, "unavailable", 1)
            elif rejection is not None:
                known = rejection.field in self._fields
                if status == "rejected":
                    accounting.refused(pipeline, project, rejection, known=known)
                else:
                    accounting.dead_lettered(pipeline, project, rejection, len(value), known=known)


def _explain(error: KafkaError | None) -> str:
    return "" if error is None else translate(error, "sending events").what
