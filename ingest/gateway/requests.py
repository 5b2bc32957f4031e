"""Counts every request, by route."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from tidewatch.telemetry.catalogue.gateway import REQUEST_SECONDS, REQUESTS
from tidewatch.telemetry.metrics import Registry

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
UNMATCHED = "(unmatched)"


class RequestCounts:
    def __init__(self, registry: Registry) -> None:
        self._requests = registry.counter(REQUESTS)
        self._seconds = registry.histogram(REQUEST_SECONDS)
        # `labels` costs more than counting, so its results are kept.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """`route` is one of ours, or UNMATCHED: what a client makes up must not become a label."""
        key = (route, method, status)
        found = self._children.get(key)
        if found is None:
            shown = method if method in _METHODS else "(other)"
            found = (self._requests.labels(route, shown, str(status)), self._seconds.labels(route))
            if shown == method:
                self._children[key] = found
        found[0].inc()
        found[1].observe(seconds)
