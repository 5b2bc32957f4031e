"""Metrics of the ledger's range records, as each loader writes them."""

from tidewatch.telemetry.metrics import Metric

RANGES_WRITTEN = Metric("tidewatch_ledger_ranges_written_total", "counter", "Range records written to the warehouse.")
RANGES_DROPPED = Metric(
    "tidewatch_ledger_ranges_dropped_total",
    "counter",
    "Range records given up because the warehouse was away too long; their ranges stay provable only while Kafka holds them.",
)
RANGES_WAITING = Metric("tidewatch_ledger_ranges_waiting", "gauge", "Range records that are not written yet.")
