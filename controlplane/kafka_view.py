"""Consumer groups as of now, for the commands: the collectors' own measurements, made once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

import httpx
from prometheus_client.parser import text_string_to_metric_families

from collectors.base import Bulk, Collector, Context, Sample, Unmeasured
from collectors.kafka.configs import read_configs
from collectors.kafka.state import KafkaState, kafka_state, wire_for
from collectors.kafka_groups import KafkaGroups
from collectors.kafka_lag import KafkaLag
from collectors.kafka_lag_seconds import KafkaLagSeconds
from collectors.kafka_topics import KafkaTopics
from tidewatch.clock import SystemClock
from tidewatch.settings import Collect, Settings
from tidewatch.spec import Specs
from tidewatch.telemetry.catalogue import collectors_kafka as m
from tidewatch.telemetry.metrics import Metric

_SCRAPE_SECONDS = 3.0

Labels = tuple[str, ...]


@dataclass
class KafkaView:
    """What was measured; `value(metric, labels)` is None where it was not."""

    at: datetime
    state: KafkaState
    unmeasured: list[Unmeasured] = field(default_factory=list)
    samples: dict[str, dict[Labels, float]] = field(default_factory=dict)
    watched: bool = False
    """Statuses and causes come from the collectors' process, which has watched for longer than a command can."""

    def value(self, metric: Metric, labels: Labels) -> float | None:
        return self.samples.get(metric.name, {}).get(labels)

    def all(self, metric: Metric) -> dict[Labels, float]:
        return self.samples.get(metric.name, {})

    def replace(self, metric: Metric, values: dict[Labels, float]) -> None:
        self.samples[metric.name] = values


def measure(settings: Settings, seconds: float) -> KafkaView:
    """Two readings so far apart, so that rates are known. Raises KafkaUnavailable or KafkaError when nothing is."""
    clock = SystemClock()
    context = Context(settings, Specs({}), clock)
    try:
        lag = KafkaLag(context)
        list(lag.collect())
        clock.sleep(seconds)
        state = context.shared(kafka_state)
        _, cluster = state.reading()
        state.configs, _ = read_configs(wire_for(context, "configs"), cluster.topics)
        view = KafkaView(clock.now(), state)
        # In this order: each uses what the one before found. The lag comes again, with the markers that were found.
        for collector in (KafkaTopics(context), KafkaGroups(context), KafkaLagSeconds(context), lag):
            _take(view, collector)
        _judged_elsewhere(view, settings.collect)
        return view
    finally:
        context.close()


def _take(view: KafkaView, collector: Collector) -> None:
    for reading in collector.collect():
        match reading:
            case Sample(metric, labels, value, _):
                view.samples.setdefault(metric.name, {})[labels] = value
            case Unmeasured():
                view.unmeasured.append(reading)
            case Bulk():
                pass  # by partition: read from the state where it is wanted


def _judged_elsewhere(view: KafkaView, settings: Collect) -> None:
    """Status and cause need minutes of watching: taken from the collectors' process, when it can be reached."""
    try:
        answer = httpx.get(f"http://{settings.host}:{settings.port}/metrics", timeout=_SCRAPE_SECONDS)
        answer.raise_for_status()
    except httpx.HTTPError:
        return
    wanted = (m.STATUS, m.PARTITIONS, m.CAUSE, m.STUCK, m.STORM)
    found = {metric.name: _parsed(metric, answer.text.splitlines()) for metric in wanted}
    if not found[m.STATUS.name]:
        return
    view.watched = True
    for metric in wanted:
        view.replace(metric, found[metric.name])


def _parsed(metric: Metric, lines: Iterable[str]) -> dict[Labels, float]:
    mine = "\n".join(line for line in lines if line.startswith(f"{metric.name}{{")) + "\n"
    samples = (sample for family in text_string_to_metric_families(mine) for sample in family.samples)
    return {tuple(sample.labels[name] for name in metric.labels): sample.value for sample in samples}
