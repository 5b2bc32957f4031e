"""Brokers: who is there, who leads, which partitions lack replicas, and how full their disks are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from kafka.protocol.admin import DescribeLogDirsRequest, DescribeQuorumRequest

from collectors.base import Bulk, Context, Reading, Sample, Unmeasured
from collectors.kafka.cluster import NOBODY, Cluster, PartitionState, TopicState, read_cluster
from collectors.kafka.configs import read_configs
from collectors.kafka.state import kafka_state, wire_for
from collectors.kafka.wire import Ask, Failure, reason
from tidewatch.telemetry.catalogue import collectors_kafka as m
from tidewatch.telemetry.exposition import Block
from tidewatch.telemetry.metrics import Metric

_EVERY = 2
# Configurations, and directories, which are listed with each of their partitions, take long and change slowly.
_SLOWLY = 4


class KafkaBrokers:
    """Reads the metadata anew each cycle, and leaves it to the other collectors."""

    name = "kafka_brokers"

    def __init__(self, context: Context) -> None:
        self.interval = context.settings.collect.interval_seconds * _EVERY
        self._clock = context.clock
        self._state = context.shared(kafka_state)
        self._wire = wire_for(context, "brokers")
        self._round = 0
        self._directories: list[Reading] = []
        self._blocks: dict[tuple[Metric, str], Block] = {}

    def collect(self) -> Iterator[Reading]:
        cluster = self._state.cluster = read_cluster(self._wire, self._clock.monotonic())
        now = self._clock.now()
        yield Sample(m.KE_BROKERS, (), len(cluster.brokers), now)
        for broker in sorted(cluster.known):
            yield Sample(m.BROKER_UP, (str(broker),), int(broker in cluster.brokers), now)
        yield from self._configs(cluster)
        yield from self._quorum(cluster)
        self._blocks = {key: block for key, block in self._blocks.items() if key[1] in cluster.topics}
        for topic in cluster.topics.values():
            yield from self._topic(topic)
        if self._round % _SLOWLY == 0:
            self._directories = list(self._log_dirs(cluster))
        self._round += 1
        yield from self._directories

    def _configs(self, cluster: Cluster) -> Iterator[Reading]:
        known = {} if self._round % _SLOWLY == 0 else self._state.configs
        found, failed = read_configs(self._wire, [name for name in cluster.topics if name not in known])
        self._state.configs = {name: config for name, config in known.items() if name in cluster.topics} | found
        for topic, why in failed.items():
            yield Unmeasured(f"configuration of topic {topic}", why, self._clock.now())

    def _topic(self, topic: TopicState) -> Iterator[Reading]:
        now, labels, partitions = self._clock.now(), (topic.name,), topic.partitions
        yield Sample(m.KE_PARTITIONS, labels, len(partitions), now)
        yield Sample(m.OFFLINE, labels, sum(p.leader == NOBODY for p in partitions), now)
        yield Sample(m.UNDER_REPLICATED, labels, sum(map(_lacks, partitions)), now)
        yield from self._bulk(m.KE_IN_SYNC, topic, lambda p: len(p.in_sync))
        yield from self._bulk(m.KE_UNDER, topic, lambda p: int(_lacks(p)))
        config = self._state.configs.get(topic.name)
        if config is None:
            return
        least = config.min_in_sync
        yield Sample(m.RETENTION, labels, config.retention, now)
        yield Sample(m.UNDER_MIN_ISR, labels, sum(len(p.in_sync) < least for p in partitions), now)
        at = sum(len(p.in_sync) == least < len(p.replicas) for p in partitions)
        yield Sample(m.AT_MIN_ISR, labels, at, now)

    def _bulk(self, metric: Metric, topic: TopicState, value: Callable[[PartitionState], int]) -> Iterator[Bulk]:
        kept = self._blocks.get((metric, topic.name))
        if kept is None or kept.size != len(topic.partitions):
            rows = [(topic.name, str(number)) for number in range(len(topic.partitions))]
            kept = self._blocks[metric, topic.name] = Block(metric, rows)
        yield Bulk(kept, [value(p) for p in topic.partitions], self._clock.now())

    def _quorum(self, cluster: Cluster) -> Iterator[Reading]:
        now = self._clock.now()
        topic = DescribeQuorumRequest.TopicData
        wanted = [topic(topic_name="__cluster_metadata", partitions=[topic.PartitionData(partition_index=0)])]
        answer = self._wire.ask_any(DescribeQuorumRequest(topics=wanted))
        if isinstance(answer, Failure) and answer.unsupported and cluster.controller != NOBODY:
            yield Sample(m.CONTROLLER, (str(cluster.controller),), 1, now)
            return
        if isinstance(answer, Failure) or answer.error_code:
            why = answer.why if isinstance(answer, Failure) else reason(answer.error_code)
            yield Unmeasured("the controller", f"the quorum is not described: {why}", now)
            return
        quorum: Any = answer.topics[0].partitions[0]
        if quorum.leader_id == NOBODY:
            yield Unmeasured("the controller", "the quorum has no leader", now)
            return
        yield Sample(m.CONTROLLER, (str(quorum.leader_id),), 1, now)
        yield Sample(m.CONTROLLER_EPOCH, (), quorum.leader_epoch, now)
        for role, replicas in (("voter", quorum.current_voters), ("observer", quorum.observers)):
            for replica in replicas:
                if replica.log_end_offset >= 0:
                    behind = max(0, quorum.high_watermark - replica.log_end_offset)
                    yield Sample(m.QUORUM_LAG, (str(replica.replica_id), role), behind, now)

    def _log_dirs(self, cluster: Cluster) -> Iterator[Reading]:
        now, nodes = self._clock.now(), sorted(cluster.brokers)
        sizes: dict[str, int] = defaultdict(int)
        answers = self._wire.ask([Ask(node, DescribeLogDirsRequest(topics=None)) for node in nodes])
        whole = True
        for node, answer in zip(nodes, answers, strict=True):
            why = (
                answer.why if isinstance(answer, Failure) else reason(answer.error_code) if answer.error_code else None
            )
            if why is not None:
                whole = False
                yield Unmeasured(f"log directories of broker {node}", why, now)
                continue
            for found in answer.results:
                if found.error_code:
                    whole = False
                    yield Unmeasured(f"log directory {found.log_dir} of broker {node}", reason(found.error_code), now)
                else:
                    yield from self._directory((str(node), found.log_dir), found, sizes)
        if whole:
            for topic, size in sizes.items():
                yield Sample(m.TOPIC_BYTES, (topic,), size, now)

    def _directory(self, labels: tuple[str, str], found: Any, sizes: dict[str, int]) -> Iterator[Reading]:
        now, total = self._clock.now(), 0
        for topic in found.topics:
            size = sum(partition.partition_size for partition in topic.partitions)
            sizes[topic.name] += size
            total += size
        yield Sample(m.LOG_DIR_BYTES, labels, total, now)
        for metric, size in ((m.LOG_DIR_SIZE, found.total_bytes), (m.LOG_DIR_FREE, found.usable_bytes)):
            if size is not None and size >= 0:
                yield Sample(metric, labels, size, now)


def _lacks(partition: PartitionState) -> bool:
    return len(partition.in_sync) < len(partition.replicas)


COLLECTOR = KafkaBrokers
