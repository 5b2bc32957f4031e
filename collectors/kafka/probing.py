"""Probe records: one to each partition of the probe topic, and read back."""

from __future__ import annotations

import time
from dataclasses import dataclass

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka import KafkaError as ConfluentError

from tidewatch.clock import Clock
from tidewatch.kafka.admin import KafkaAdmin, NewTopic
from tidewatch.kafka.client import consumer_config, producer_config, translate
from tidewatch.settings import Kafka

_STAMPED_BY_BROKER = {"message.timestamp.type": "LogAppendTime"}
_RETENTION_MS = str(60 * 60 * 1000)
_POLL_SECONDS = 0.005


@dataclass
class Probe:
    """What became of one record. `sent` is by our own clock, `stamped` by the broker's."""

    partition: int
    sent: float
    acknowledged_after: float | None = None
    stamped: float | None = None
    """When the broker says that it appended the record."""
    returned_after: float | None = None
    error: str | None = None

    @property
    def waits(self) -> bool:
        return self.returned_after is None and self.error is None


def prepare_topic(settings: Kafka, topic: str) -> int:
    """Make the topic what the probe needs, and return how many partitions it has: one for each broker, at least."""
    with KafkaAdmin(settings, client_id="tidewatch-collect-probe", timeout_seconds=5) as admin:
        brokers = len(admin.brokers())
        found = admin.topics([topic]).get(topic)
        if found is None:
            replication = 3 if brokers >= 3 else 1
            insync = {"min.insync.replicas": str(max(1, replication - 1)), "retention.ms": _RETENTION_MS}
            admin.create_topic(NewTopic(topic, brokers, replication, {**insync, **_STAMPED_BY_BROKER}))
            return brokers
        if found.configs.get("message.timestamp.type") != _STAMPED_BY_BROKER["message.timestamp.type"]:
            admin.set_configs(topic, _STAMPED_BY_BROKER)
        if found.partitions < brokers:
            admin.add_partitions(topic, brokers)
        return max(brokers, found.partitions)


class Prober:
    """A producer, and a consumer that commits nothing, kept between rounds."""

    def __init__(self, settings: Kafka, topic: str, partitions: int, timeout_seconds: float, clock: Clock) -> None:
        self._topic = topic
        self._partitions = partitions
        self._timeout = timeout_seconds
        self._clock = clock
        patience = {"message_timeout_ms": int(timeout_seconds * 1000), "linger_ms": 0}
        self._producer = Producer(producer_config(settings, "tidewatch-probe", **patience))
        self._consumer = Consumer(consumer_config(settings, "tidewatch-probe", "tidewatch-probe", fetch_wait_max_ms=20))

    def close(self) -> None:
        self._producer.purge()
        self._producer.flush(1)
        self._consumer.close()

    def leaders(self) -> dict[int, int]:
        """Which broker leads each partition. Raises KafkaUnavailable or KafkaError."""
        try:
            found = self._producer.list_topics(self._topic, timeout=self._timeout).topics[self._topic]
        except KafkaException as error:
            raise translate(error, f"asking who leads {self._topic}") from error
        return {number: partition.leader for number, partition in found.partitions.items()}

    def round(self) -> list[Probe]:
        """Send one record to each partition, and wait for what comes back. Raises KafkaUnavailable or KafkaError."""
        try:
            probes = {number: self._send(number) for number in range(self._partitions)}
            deadline = time.monotonic() + self._timeout
            while time.monotonic() < deadline and any(probe.waits for probe in probes.values()):
                self._producer.poll(0)
                self._read(probes)
            self._consumer.unassign()
        except KafkaException as error:
            raise translate(error, f"probing {self._topic}") from error
        return list(probes.values())

    def _send(self, partition: int) -> Probe:
        probe = Probe(partition, self._clock.now().timestamp())

        def delivered(error: ConfluentError | None, message: Message) -> None:
            if error is not None:
                probe.error = translate(error, "sending a probe record").what
                return
            kind, stamp = message.timestamp()
            probe.acknowledged_after = message.latency()
            probe.stamped = stamp / 1000 if kind == TIMESTAMP_LOG_APPEND_TIME else None
            self._consumer.incremental_assign([TopicPartition(self._topic, partition, message.offset() or 0)])

        self._producer.produce(self._topic, b"", partition=partition, on_delivery=delivered)
        return probe

    def _read(self, probes: dict[int, Probe]) -> None:
        message = self._consumer.poll(_POLL_SECONDS)
        if message is None or message.error() is not None:
            return
        probe = probes[message.partition() or 0]
        if probe.returned_after is None:
            probe.returned_after = self._clock.now().timestamp() - probe.sent
