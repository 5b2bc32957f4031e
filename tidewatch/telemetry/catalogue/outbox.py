"""Metrics of the outbox: accepting into the SQL store, and the relay that emits to Kafka."""

from tidewatch.telemetry.metrics import SECONDS, Metric

_BATCH_ROWS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)

ACCEPTED = Metric(
    "tidewatch_outbox_accepted_total", "counter", "Requests answered after the store committed.", ("pipeline",)
)
COMMIT_ROWS = Metric(
    "tidewatch_outbox_commit_rows", "histogram", "Requests that shared one commit.", buckets=_BATCH_ROWS
)
COMMIT_SECONDS = Metric(
    "tidewatch_outbox_commit_seconds", "histogram", "Duration of one commit of the store.", buckets=SECONDS
)
WAITING = Metric(
    "tidewatch_outbox_waiting_rows", "gauge", "Committed rows that Kafka does not have yet.", ("pipeline",)
)
AGE = Metric(
    "tidewatch_outbox_oldest_waiting_seconds",
    "gauge",
    "Age of the oldest row that Kafka does not have yet.",
    ("pipeline",),
)
EMITTED = Metric(
    "tidewatch_outbox_emitted_total", "counter", "Records committed to Kafka by this relay.", ("pipeline",)
)
BATCHES = Metric(
    "tidewatch_outbox_batches_total", "counter", "Kafka transactions committed by this relay.", ("pipeline",)
)
EMIT_DELAY = Metric(
    "tidewatch_outbox_emit_delay_seconds",
    "histogram",
    "From the row's commit to its Kafka transaction's commit.",
    ("pipeline",),
    SECONDS,
)
RETRIES = Metric(
    "tidewatch_outbox_retries_total",
    "counter",
    "Times the relay lost Kafka or the store and began again by comparing the two.",
    ("pipeline",),
)
UP = Metric("tidewatch_outbox_relay_ready", "gauge", "1 while the relay has both Kafka and the store.", ("pipeline",))
PURGED = Metric("tidewatch_outbox_purged_rows_total", "counter", "Sent rows removed after their retention.")
