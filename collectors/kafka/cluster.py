"""The cluster's metadata: brokers, topics, and who leads what."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kafka.protocol.metadata import MetadataRequest

from collectors.kafka.wire import Wire, required
from tidewatch.kafka.admin import topic_id_text

NOBODY = -1


class PartitionState(NamedTuple):
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]
    offline: tuple[int, ...]


@dataclass(frozen=True)
class TopicState:
    name: str
    topic_id: str
    internal: bool
    partitions: tuple[PartitionState, ...]
    """By number."""


@dataclass(frozen=True)
class Cluster:
    brokers: dict[int, str]
    """Those that are up: id → host:port."""
    topics: dict[str, TopicState]
    refused: dict[str, int] = field(default_factory=dict)
    """Topics that the cluster would not describe → error code."""
    controller: int = NOBODY
    """Meaningful for a cluster with ZooKeeper; in others any broker passes requests on to it."""
    at: float = 0.0
    """The monotonic clock when this was read."""

    @property
    def known(self) -> set[int]:
        """Every broker that is up, or that holds a replica."""
        return set(self.brokers) | {r for _, _, state in self.each() for r in state.replicas}

    def each(self) -> Iterator[tuple[TopicState, int, PartitionState]]:
        for topic in self.topics.values():
            for number, state in enumerate(topic.partitions):
                yield topic, number, state


def read_cluster(wire: Wire, monotonic: float) -> Cluster:
    """Raises KafkaUnavailable or KafkaError when no broker can tell."""
    request = MetadataRequest(topics=None, allow_auto_topic_creation=False, max_version=12)
    response = required(wire.ask_any(request), "reading the metadata")
    return Cluster(
        brokers={broker.node_id: f"{broker.host}:{broker.port}" for broker in response.brokers},
        topics={topic.name: _topic(topic) for topic in response.topics if topic.error_code == 0},
        refused={topic.name: topic.error_code for topic in response.topics if topic.error_code},
        controller=response.controller_id,
        at=monotonic,
    )


def _topic(found: Any) -> TopicState:
    states = {
        p.partition_index: PartitionState(
            p.leader_id, tuple(p.replica_nodes), tuple(p.isr_nodes), tuple(p.offline_replicas or ())
        )
        for p in found.partitions
    }
    missing = PartitionState(NOBODY, (), (), ())
    partitions = tuple(states.get(number, missing) for number in range(max(states, default=-1) + 1))
    topic_id = topic_id_text(uuid.UUID(str(found.topic_id)))
    return TopicState(found.name, topic_id, bool(found.is_internal), partitions)
