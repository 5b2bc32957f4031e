"""Counts every request, by route.

Requests only add to plain numbers, which costs a fifth of prometheus-client's own; a collector shows them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tidewatch.telemetry.catalogue.gateway import REQUEST_SECONDS, REQUESTS
from tidewatch.telemetry.metrics import Registry

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
UNMATCHED = "(unmatched)"


class _Durations:
    """Of one route; `buckets` has one more than there are bounds, for what is beyond the last."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(REQUEST_SECONDS.buckets) + 1)
        self.total = 0.0


class RequestCounts(Collector):
    def __init__(self, registry: Registry) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self._durations: dict[str, _Durations] = {}
        registry.prometheus.register(self)

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """`route` is one of ours, or UNMATCHED: what a client makes up must not become a label."""
        key = (route, method if method in _METHODS else "(other)", status)
        self._counts[key] = self._counts.get(key, 0) + 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = _Durations()
        durations.buckets[bisect_left(REQUEST_SECONDS.buckets, seconds)] += 1
        durations.total += seconds

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(REQUESTS.name.removesuffix("_total"), REQUESTS.help, labels=REQUESTS.labels)
        for (route, method, status), count in self._counts.items():
            requests.add_metric((route, method, str(status)), count)
        seconds = HistogramMetricFamily(REQUEST_SECONDS.name, REQUEST_SECONDS.help, labels=REQUEST_SECONDS.labels)
        bounds = [*map(floatToGoString, REQUEST_SECONDS.buckets), "+Inf"]
        for route, durations in self._durations.items():
            below, cumulative = 0, []
            for bound, count in zip(bounds, durations.buckets, strict=True):
                below += count
                cumulative.append((bound, float(below)))
            seconds.add_metric((route,), cumulative, durations.total)
        return requests, seconds
