"""Alert rules as code, generated from the specs and the metric catalogue."""
