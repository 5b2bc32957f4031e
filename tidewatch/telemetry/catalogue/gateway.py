"""What the gateway counts."""

from __future__ import annotations

from tidewatch.telemetry.metrics import SECONDS, Metric

REQUESTS = Metric(
    "tidewatch_gateway_requests_total",
    "counter",
    "HTTP requests answered, by route of the spec or of the service itself.",
    ("route", "method", "status"),
)
REQUEST_SECONDS = Metric(
    "tidewatch_gateway_request_seconds",
    "histogram",
    "From the request's first byte seen by the gateway to its answer, acknowledgement by Kafka included.",
    ("route",),
    SECONDS,
)
EVENTS = Metric(
    "tidewatch_gateway_events_total",
    "counter",
    "Events offered, by outcome: accepted, dead_lettered or rejected. Their sum is what was offered.",
    ("pipeline", "project", "outcome"),
)
REJECTED = Metric(
    "tidewatch_gateway_rejected_events_total",
    "counter",
    "Events that were rejected or dead-lettered, by field and reason.",
    ("pipeline", "project", "outcome", "field", "reason"),
)
BYTES = Metric(
    "tidewatch_gateway_event_bytes_total",
    "counter",
    "Bytes of accepted and dead-lettered events, uncompressed.",
    ("pipeline",),
)
WAITING = Metric(
    "tidewatch_gateway_waiting_events", "gauge", "Records handed to the Kafka client and not yet acknowledged."
)
KAFKA_UP = Metric(
    "tidewatch_gateway_kafka_up", "gauge", "1 while Kafka acknowledges, 0 while requests are answered 503 at once."
)
PRODUCERS_REPLACED = Metric(
    "tidewatch_gateway_producers_replaced_total", "counter", "Kafka producers given up after a fatal error."
)
ACCOUNTING_WAITING = Metric(
    "tidewatch_gateway_accounting_waiting_records", "gauge", "Accounting records that Kafka has not acknowledged yet."
)
KEYS = Metric("tidewatch_gateway_api_keys", "gauge", "API keys that are valid now.")
INSTANCE = Metric(
    "tidewatch_gateway_instance_info", "gauge", "Always 1; the gateway's name in its accounting records.", ("gateway",)
)
