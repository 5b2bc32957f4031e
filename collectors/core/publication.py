"""Readings → metrics: what each collector reported last, and nothing older."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector as PrometheusCollector

from collectors.base import Bulk, Reading, Sample, Unmeasured
from tidewatch.telemetry.catalogue.collectors import READINGS, UNMEASURED, UNMEASURED_LEFT_OUT
from tidewatch.telemetry.exposition import Exposition
from tidewatch.telemetry.metrics import Metric, Registry

# A cluster that is down makes thousands of things unknown; an operator reads the first few.
_NAMED = 200

Family = GaugeMetricFamily | CounterMetricFamily


@dataclass(frozen=True)
class _Picture:
    samples: Sequence[Sample]
    unmeasured: Sequence[Unmeasured]
    series: int


class Publication(PrometheusCollector):
    """Swaps in each collector's picture as a whole; a scrape reads what is there and waits for nobody."""

    def __init__(self, registry: Registry, exposition: Exposition) -> None:
        self._exposition = exposition
        self._pictures: dict[str, _Picture] = {}
        registry.prometheus.register(self)

    def publish(self, collector: str, readings: Iterable[Reading]) -> None:
        """Replace all that this collector published before."""
        everything = list(readings)
        bulks = [each for each in everything if isinstance(each, Bulk)]
        if bulks:
            bulks.sort(key=lambda bulk: bulk.block.metric.name)
            grouped = groupby(bulks, key=lambda bulk: bulk.block.metric)
            families = ((metric, (b.block.render(b.values) for b in blocks)) for metric, blocks in grouped)
            self._exposition.publish(collector, families)
        else:
            self._exposition.drop(collector)
        samples = [each for each in everything if isinstance(each, Sample)]
        unmeasured = [each for each in everything if isinstance(each, Unmeasured)]
        picture = _Picture(samples, unmeasured, len(samples) + sum(bulk.block.size for bulk in bulks))
        self._pictures = {**self._pictures, collector: picture}

    def unmeasured(self) -> dict[str, Sequence[Unmeasured]]:
        """By collector."""
        return {name: picture.unmeasured for name, picture in self._pictures.items()}

    def samples(self) -> list[Sample]:
        return [sample for picture in self._pictures.values() for sample in picture.samples]

    def describe(self) -> Iterable[Family]:
        """Nothing is known before it is measured, so there is nothing to compare with other collectors of metrics."""
        return ()

    def collect(self) -> Iterator[Family]:
        pictures = dict(self._pictures)
        families: dict[Metric, Family] = {}
        for picture in pictures.values():
            for metric, labels, value, _ in picture.samples:
                if metric not in families:
                    families[metric] = _family(metric)
                families[metric].add_metric(labels, value)
        yield from families.values()
        yield from _blind_spots(pictures)


def _blind_spots(pictures: dict[str, _Picture]) -> Iterator[Family]:
    named, left_out, series = (_family(metric) for metric in (UNMEASURED, UNMEASURED_LEFT_OUT, READINGS))
    for collector, picture in pictures.items():
        # Two readings of one thing and reason would be one series twice, which Prometheus refuses.
        spots = list(dict.fromkeys((each.source, each.why) for each in picture.unmeasured))
        for source, why in spots[:_NAMED]:
            named.add_metric((collector, source, why), 1)
        left_out.add_metric((collector,), max(0, len(spots) - _NAMED))
        series.add_metric((collector,), picture.series)
    yield from (named, left_out, series)


def _family(metric: Metric) -> Family:
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
