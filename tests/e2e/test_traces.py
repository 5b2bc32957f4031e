"""One trace from the client's request to the insert, over HTTP, the outbox and Kafka, as a collector receives it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from otlp_receiver import OtlpReceiver, Received
from sqlalchemy import text
from steady_clients import click, order

from devstack.stack import Stack, StackOptions
from tidewatch.kafka.admin import EARLIEST, LATEST, KafkaAdmin, Partition
from tidewatch.kafka.reading import LogReader
from tidewatch.record import ENVELOPE, TRACEPARENT, Envelope, decode_envelope
from tidewatch.settings import load_settings
from tidewatch.sql import open_store
from tidewatch.telemetry.traces import TraceContext, parse_traceparent

PIPELINES = Path(__file__).parents[2] / "pipelines"
PATIENCE_SECONDS = 90.0


class Traced(NamedTuple):
    """A Kafka record's headers."""

    envelope: Envelope
    traceparent: str | None


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def stack(receiver: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Of its own accord it samples nothing: the client decides."""
    settings = {
        "TIDEWATCH_TELEMETRY__OTLP_ENDPOINT": receiver.url,
        "TIDEWATCH_TELEMETRY__SAMPLE_RATIO": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    directory = tmp_path_factory.mktemp("traces")
    options = StackOptions(directory / "stack", prometheus=False, pipelines=PIPELINES, settings=settings)
    with Stack(options) as stack:
        yield stack


def client_context(*, sampled: bool = True) -> TraceContext:
    return TraceContext(secrets.randbits(128) or 1, secrets.randbits(64) or 1, sampled)


def post(stack: Stack, path: str, event: object, client: TraceContext, status: int = 202) -> str:
    """The event's id, as answered."""
    headers = {"X-Api-Key": stack.api_key, "traceparent": str(client)}
    response = httpx.post(f"{stack.gateway_url}{path}", json=event, headers=headers, timeout=60)
    assert response.status_code == status, response.text
    answer = response.json()
    return str(answer.get("event_id") or answer.get("order_id"))


def record(stack: Stack, topic: str, event_id: str) -> Traced:
    """Of the only record with this event id; waits for it."""
    settings = load_settings(stack.environment).kafka
    deadline = time.monotonic() + PATIENCE_SECONDS
    with KafkaAdmin(settings) as admin, LogReader(settings) as reader:
        partitions = [Partition(topic, number) for number in range(admin.topic(topic).partitions)]
        starts = admin.offsets(partitions, EARLIEST)
        while True:
            ends = admin.offsets(partitions, LATEST)
            for where in partitions:
                for message in reader.read(topic, where.partition, starts[where], ends[where]):
                    headers = {name: value for name, value in message.headers() or [] if isinstance(value, bytes)}
                    envelope = decode_envelope(headers[ENVELOPE])
                    if envelope.event_id == event_id:
                        standard = headers.get(TRACEPARENT)
                        return Traced(envelope, standard.decode() if standard is not None else None)
            assert time.monotonic() < deadline, f"{event_id} is not in {topic}"
            time.sleep(0.1)


def ids(context: TraceContext | None) -> tuple[str, str]:
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def request_span(receiver: OtlpReceiver, path: str, client: TraceContext) -> Received:
    """The gateway's span, a child of the client's."""
    trace_id, span_id = ids(client)
    return receiver.wait_for(
        "gateway", lambda s: (s.name, s.trace_id, s.parent_id) == (f"POST {path}", trace_id, span_id)
    )


def insert_span(receiver: OtlpReceiver, topic: str, request: Received) -> Received:
    """The loader's span that comes from `request`, as its child or by a link."""
    return receiver.wait_for(
        "loader", lambda s: s.name == f"insert {topic}" and (request.trace_id, request.span_id) in s.origins
    )


def test_a_sampled_request_is_followed_to_its_insert(stack: Stack, receiver: OtlpReceiver) -> None:
    client = client_context()
    event_id = post(stack, "/api/v1/clicks/", click(1), client)
    request = request_span(receiver, "/api/v1/clicks/", client)
    found = record(stack, "raw.clicks.v1", event_id)
    assert ids(parse_traceparent(found.envelope.traceparent)) == (request.trace_id, request.span_id)
    assert found.traceparent == found.envelope.traceparent
    insert_span(receiver, "raw.clicks.v1", request)


def test_each_sampled_request_of_one_insert_is_named_by_it(stack: Stack, receiver: OtlpReceiver) -> None:
    """The loader is held while they arrive, so that its next insert carries them all."""
    clients = [client_context() for _ in range(4)]
    silent = [client_context(sampled=False) for _ in clients]
    stack.service("loader").pause()
    try:
        for client, quiet in zip(clients, silent, strict=True):
            post(stack, "/api/v1/clicks/", [click(1), click(2)], client)
            post(stack, "/api/v1/clicks/", [click(3), click(4)], quiet)
    finally:
        stack.service("loader").resume()
    requests = [request_span(receiver, "/api/v1/clicks/", client) for client in clients]
    inserts = [insert_span(receiver, "raw.clicks.v1", request) for request in requests]
    assert any(insert.links for insert in inserts)
    named = {trace_id for insert in inserts for trace_id, _ in insert.origins}
    assert named.isdisjoint(ids(quiet)[0] for quiet in silent)


def test_an_order_is_followed_through_the_outbox(stack: Stack, receiver: OtlpReceiver) -> None:
    client = client_context()
    event_id = post(stack, "/api/v1/orders/", order(), client)
    request = request_span(receiver, "/api/v1/orders/", client)
    emit = receiver.wait_for("outbox-relay", lambda s: (s.trace_id, s.parent_id) == (request.trace_id, request.span_id))
    assert emit.name == "outbox.emit"
    found = record(stack, "raw.orders.v1", event_id)
    assert ids(parse_traceparent(found.envelope.traceparent)) == (request.trace_id, request.span_id)
    # The standard header names the span that wrote the record.
    assert ids(parse_traceparent(found.traceparent or "")) == (emit.trace_id, emit.span_id)
    insert_span(receiver, "raw.orders.v1", request)


@pytest.mark.parametrize(
    ("path", "topic"), [("/api/v1/clicks/", "raw.clicks.v1"), ("/api/v1/orders/", "raw.orders.v1")]
)
def test_an_unsampled_request_makes_no_span_and_keeps_its_context(
    stack: Stack, receiver: OtlpReceiver, path: str, topic: str
) -> None:
    silent, loud = client_context(sampled=False), client_context()
    event_id = post(stack, path, click(1) if "clicks" in path else order(), silent)
    found = record(stack, topic, event_id)
    context = parse_traceparent(found.envelope.traceparent)
    assert context is not None
    assert (context.trace_id, context.sampled, found.traceparent) == (silent.trace_id, False, None)
    # What is sent later comes later: by then a span of the first would have come.
    post(stack, path, click(1) if "clicks" in path else order(), loud)
    insert_span(receiver, topic, request_span(receiver, path, loud))
    trace_id, _ = ids(silent)
    assert [s for s in receiver.spans if trace_id in {s.trace_id, *(link[0] for link in s.links)}] == []


@pytest.mark.parametrize("sampled", [True, False])
def test_the_log_of_a_failing_request_names_its_trace(stack: Stack, sampled: bool) -> None:  # noqa: FBT001
    engine = open_store(load_settings(stack.environment).store)
    client = client_context(sampled=sampled)
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON business_rows BEGIN SELECT RAISE(ABORT, 'disk on strike'); END"
    with engine.begin() as connection:
        connection.execute(text(refuse))
    try:
        post(stack, "/api/v1/orders/", order(), client, status=500)
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP TRIGGER refuse"))
        engine.dispose()
    log = stack.service("gateway").child.log.read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    failed = [line for line in lines if line["event"] == "gateway.request_failed"]
    trace_id, _ = ids(client)
    assert failed[-1]["trace_id"] == trace_id
    assert "disk on strike" in failed[-1]["exception"]
    assert order()["invoice_no"] not in log, "what a client sent is nobody's business in a log"
