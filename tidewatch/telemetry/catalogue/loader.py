"""What a loader counts. `topic` is a pipeline's topic or its dead-letter topic."""

from __future__ import annotations

from tidewatch.telemetry.metrics import SECONDS, Metric

_TOPIC = ("topic",)

ROWS = Metric("tidewatch_loader_rows_total", "counter", "Records inserted into ClickHouse.", _TOPIC)
BYTES = Metric("tidewatch_loader_bytes_total", "counter", "Bytes of insert bodies that landed.", _TOPIC)
BLOCKS = Metric("tidewatch_loader_blocks_total", "counter", "Inserts that landed.", _TOPIC)
BATCH_ROWS = Metric(
    "tidewatch_loader_batch_rows",
    "histogram",
    "Records of one insert.",
    _TOPIC,
    (1, 10, 100, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
)
INSERT_SECONDS = Metric(
    "tidewatch_loader_insert_seconds", "histogram", "One insert, until ClickHouse answered.", _TOPIC, SECONDS
)
BUILD_SECONDS = Metric("tidewatch_loader_build_seconds", "histogram", "Making the body of one insert.", _TOPIC, SECONDS)
COMMIT_SECONDS = Metric(
    "tidewatch_loader_commit_seconds", "histogram", "One commit of offsets with an intent.", _TOPIC, SECONDS
)
FETCH_WAIT = Metric(
    "tidewatch_loader_fetch_wait_seconds_total", "counter", "Time with nothing to insert: Kafka had no more.", _TOPIC
)
AGE = Metric(
    "tidewatch_loader_age_seconds",
    "histogram",
    "From received by the gateway to inserted: the oldest and the newest record of each insert.",
    _TOPIC,
    SECONDS,
)
LETTERS = Metric(
    "tidewatch_loader_dead_letters_total",
    "counter",
    "Records that could not be loaded and became dead letters.",
    ("pipeline", "error"),
)
RETRIES = Metric(
    "tidewatch_loader_retries_total",
    "counter",
    "Attempts that failed and are repeated, by trouble.",
    ("topic", "trouble"),
)
CIRCUIT = Metric(
    "tidewatch_loader_circuit_open",
    "gauge",
    "1 while the lane waits because of this trouble, 0 otherwise; docs/loader.md explains each.",
    ("topic", "trouble"),
)
HALTED = Metric("tidewatch_loader_halted", "gauge", "1 when the lane stopped for good and needs an operator.", _TOPIC)
PARTITIONS = Metric("tidewatch_loader_owned_partitions", "gauge", "Partitions that this loader holds.", _TOPIC)
RECOVERED = Metric(
    "tidewatch_loader_recovered_blocks_total", "counter", "Blocks of a former owner that were settled.", _TOPIC
)
EXPIRED = Metric(
    "tidewatch_loader_expired_offsets_total",
    "counter",
    "Offsets that retention removed before they were loaded: lost.",
    _TOPIC,
)
WINDOW = Metric(
    "tidewatch_loader_window_used_ratio",
    "gauge",
    "How much of the deduplication window lies behind the block in flight; above 0.5 the table is read instead.",
    _TOPIC,
)
LAST_INSERT = Metric("tidewatch_loader_last_insert_timestamp_seconds", "gauge", "When an insert last landed.", _TOPIC)
LAG = Metric(
    "tidewatch_loader_lag_records",
    "gauge",
    "Records between what this loader has read and the end of the log, as its consumer sees it.",
    ("topic", "partition"),
)
