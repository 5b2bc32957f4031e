"""The collectors themselves: whether they see."""

from __future__ import annotations

from tidewatch.telemetry.metrics import Metric

UNMEASURED = Metric(
    "tidewatch_unmeasured",
    "gauge",
    "Always 1: this could not be measured, and why. Its series are absent, never zero.",
    ("collector", "source", "reason"),
)
UNMEASURED_LEFT_OUT = Metric(
    "tidewatch_unmeasured_left_out",
    "gauge",
    "Things that could not be measured beyond those that tidewatch_unmeasured names.",
    ("collector",),
)
LAST_SUCCESS = Metric(
    "tidewatch_collector_last_success_timestamp_seconds",
    "gauge",
    "When the collector last ended a cycle by itself.",
    ("collector",),
)
DURATION = Metric(
    "tidewatch_collector_duration_seconds", "gauge", "Duration of the collector's last cycle.", ("collector",)
)
INTERVAL = Metric(
    "tidewatch_collector_interval_seconds", "gauge", "How often the collector is meant to run.", ("collector",)
)
ERRORS = Metric(
    "tidewatch_collector_errors_total", "counter", "Cycles that failed as a whole or were hung.", ("collector",)
)
READINGS = Metric(
    "tidewatch_collector_series", "gauge", "Series that the collector's last cycle reported.", ("collector",)
)
