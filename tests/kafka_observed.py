"""For the collectors' tests: a cluster observed through a clock that a test can move, and samples by name."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from confluent_kafka import Consumer, Producer, TopicPartition

from collectors.base import Bulk, Collector, Context, Sample, Unmeasured
from collectors.kafka.state import kafka_state
from collectors.kafka_brokers import KafkaBrokers
from collectors.kafka_groups import KafkaGroups
from collectors.kafka_lag import KafkaLag
from collectors.kafka_lag_seconds import KafkaLagSeconds
from collectors.kafka_probe import KafkaProbe
from collectors.kafka_topics import KafkaTopics
from tidewatch.kafka.admin import KafkaAdmin, NewTopic
from tidewatch.kafka.client import consumer_config, producer_config
from tidewatch.settings import Collect, Gateway, Kafka, Settings
from tidewatch.spec import Specs
from tidewatch.telemetry.metrics import Metric


@dataclass
class ShiftedClock:
    """Runs as the system's does, so many seconds ahead of it; `advance` also moves the monotonic clock."""

    ahead: float = 0.0
    _advanced: float = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead + self._advanced)

    def monotonic(self) -> float:
        return time.monotonic() + self._advanced

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._advanced += seconds


@dataclass
class Seen:
    """What one or more collectors reported."""

    samples: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)
    rendered: bytes = b""

    def value(self, metric: Metric, *labels: str) -> float | None:
        return self.samples.get(metric.name, {}).get(labels)

    def labels(self, metric: Metric, *first: str) -> list[tuple[str, ...]]:
        """The label values that follow `first`."""
        found = self.samples.get(metric.name, {})
        return sorted(labels[len(first) :] for labels in found if labels[: len(first)] == first)


class Observed:
    """A cluster, with admin, clients and one of each Kafka collector."""

    def __init__(self, bootstrap: str, *, clock: ShiftedClock | None = None, interval: float = 15.0) -> None:
        self.clock = clock or ShiftedClock()
        self.settings = Settings(
            kafka=Kafka(bootstrap=bootstrap),
            collect=Collect(interval_seconds=interval, timeout_seconds=6),
            gateway=Gateway(probe_topic="tidewatch.probe.collectors"),
        )
        self.context = Context(self.settings, Specs({}), self.clock)
        self.state = self.context.shared(kafka_state)
        self.admin = KafkaAdmin(self.settings.kafka)
        self.lag = KafkaLag(self.context)
        self.groups = KafkaGroups(self.context)
        self.seconds = KafkaLagSeconds(self.context)
        self.topics = KafkaTopics(self.context)
        self.brokers = KafkaBrokers(self.context)
        self.probe = KafkaProbe(self.context)
        self._producer: Producer | None = None

    def close(self) -> None:
        self.probe.close()
        self.context.close()
        self.admin.close()

    def topic(self, name: str, partitions: int = 1, *, replication: int = 1, **configs: str) -> str:
        given = {key.replace("_", "."): value for key, value in configs.items()}
        stamped = {"message.timestamp.type": "LogAppendTime", **given}
        self.admin.create_topic(NewTopic(name, partitions, replication, stamped))
        return name

    def produce(self, topic: str, *partitions: int) -> None:
        """One record to each of the partitions named."""
        if self._producer is None:
            self._producer = Producer(producer_config(self.settings.kafka, "test"))
        for number in partitions:
            self._producer.produce(topic, b"x", partition=number)
        assert self._producer.flush(20) == 0

    def commit(self, group: str, topic: str, **offsets: int) -> None:
        """`commit(group, topic, p0=3)`, from outside the group."""
        consumer = Consumer(consumer_config(self.settings.kafka, "test", group))
        places = [TopicPartition(topic, int(name[1:]), offset) for name, offset in offsets.items()]
        consumer.commit(offsets=places, asynchronous=False)
        consumer.close()

    def collect(self, *collectors: Collector, after: float = 0.0) -> Seen:
        """One cycle of each, `after` so many seconds."""
        self.clock.advance(after)
        seen = Seen()
        for collector in collectors:
            for reading in collector.collect():
                match reading:
                    case Sample(metric, labels, value, _):
                        assert labels not in seen.samples.get(metric.name, {}), f"{metric.name}{labels} twice"
                        seen.samples.setdefault(metric.name, {})[labels] = value
                    case Unmeasured(source, why, _):
                        seen.unmeasured[source] = why
                    case Bulk(block, values, _):
                        seen.rendered += block.render(values)
        return seen


class Members:
    """Consumers of one group that poll when they are told to, and commit what they are told to."""

    def __init__(self, observed: Observed, group: str, topic: str, names: Iterable[str], **config: str) -> None:
        over: dict[str, object] = {"auto_offset_reset": "earliest", **config}
        if "group_protocol" not in over:
            over["session_timeout_ms"] = 45_000  # in the new protocol that is the broker's business
        self.group, self.topic = group, topic
        self.consumers: dict[str, Consumer] = {}
        for name in names:
            self.consumers[name] = Consumer(consumer_config(observed.settings.kafka, name, group, **over))
            self.consumers[name].subscribe([topic])

    def settle(self, partitions: int) -> None:
        """Until every member holds some of the partitions, and together they hold all."""
        deadline = time.monotonic() + 60
        while not self._settled(partitions):
            assert time.monotonic() < deadline, "the group does not come to rest"
            for consumer in self.consumers.values():
                consumer.poll(0.1)

    def _settled(self, partitions: int) -> bool:
        held = [self.held(name) for name in self.consumers]
        return all(held) and sum(map(len, held)) == partitions

    def held(self, name: str) -> list[int]:
        return sorted(place.partition for place in self.consumers[name].assignment())

    def commit(self, name: str, **offsets: int) -> None:
        places = [TopicPartition(self.topic, int(key[1:]), offset) for key, offset in offsets.items()]
        self.consumers[name].commit(offsets=places, asynchronous=False)

    def close(self) -> None:
        for consumer in self.consumers.values():
            consumer.close()
