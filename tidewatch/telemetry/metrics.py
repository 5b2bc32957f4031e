"""The one metric catalogue, exposed by prometheus-client.

A metric is declared once, in `tidewatch/telemetry/catalogue/<area>.py`; panels, alert rules and docs are derived from
the declaration. A process makes one `Registry` and hands it to its parts.
"""

from __future__ import annotations

import gzip
import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from tidewatch import __version__

_Kind = TypeVar("_Kind", Counter, Gauge)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a millisecond to a minute, about two and a half steps a decade.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` is the exposed name: a counter's ends in `_total`, and every name holds its unit."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    compatible_with: str = ""
    """Whose name this is, when it is somebody else's, emitted so that their users' boards work."""

    def __post_init__(self) -> None:
        if not self.compatible_with and not self.name.startswith("tidewatch_"):
            raise ValueError(f"{self.name}: our metrics begin with tidewatch_")
        if (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(f"{self.name}: counters, and only they, end in _total")
        if (self.kind == "histogram") != bool(self.buckets):
            raise ValueError(f"{self.name}: histograms, and only they, have buckets")


BUILD = Metric(
    "tidewatch_build_info", "gauge", "Always 1; which version of which service runs.", ("service", "version")
)


class Registry:
    """The metrics of one process. The same Metric always gives the same object."""

    def __init__(self, service: str) -> None:
        self.prometheus = CollectorRegistry()
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        ProcessCollector(registry=self.prometheus)
        PlatformCollector(registry=self.prometheus)
        self.gauge(BUILD).labels(service, __version__).set(1)

    def counter(self, metric: Metric) -> Counter:
        return self._make(metric, Counter)

    def gauge(self, metric: Metric) -> Gauge:
        return self._make(metric, Gauge)

    def histogram(self, metric: Metric) -> Histogram:
        if metric.name not in self._made:
            self._made[metric.name] = Histogram(
                metric.name, metric.help, metric.labels, registry=self.prometheus, buckets=metric.buckets
            )
        made = self._made[metric.name]
        if not isinstance(made, Histogram):
            raise TypeError(f"{metric.name} is a {metric.kind}")
        return made

    def expose(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self.prometheus)

    def expose_gzip(self) -> bytes:
        return gzip.compress(self.expose(), 1)

    def _make(self, metric: Metric, kind: type[_Kind]) -> _Kind:
        if metric.kind != kind.__name__.lower():
            raise TypeError(f"{metric.name} is a {metric.kind}")
        if metric.name not in self._made:
            self._made[metric.name] = kind(metric.name, metric.help, metric.labels, registry=self.prometheus)
        made = self._made[metric.name]
        if not isinstance(made, kind):
            raise TypeError(f"{metric.name} is a {metric.kind}")
        return made


@cache
def catalogue() -> dict[str, Metric]:
    """Every metric that any service of ours exposes, by name. Raises ValueError when two share a name."""
    from tidewatch.telemetry import catalogue as package  # noqa: PLC0415 — its modules import this one

    found = {BUILD.name: BUILD}
    for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
        for value in vars(importlib.import_module(f"{package.__name__}.{module}")).values():
            if not isinstance(value, Metric):
                continue
            if found.setdefault(value.name, value) is not value:
                raise ValueError(f"{value.name} is declared twice")
    return found
