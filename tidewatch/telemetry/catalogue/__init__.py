"""Metric declarations, one module an area; `tidewatch.telemetry.metrics.catalogue` finds them all."""
