"""What the Kafka collectors tell each other: each writes what it measures, under one lock, and reads the others'."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event, RLock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectors.base import Context
from collectors.kafka.cluster import Cluster, PartitionState
from collectors.kafka.configs import TopicConfig
from collectors.kafka.history import GroupTopic, History
from collectors.kafka.offsets import Listed, Offsets
from collectors.kafka.wire import Wire
from tidewatch.errors import KafkaUnavailable

_FIRST_READING_SECONDS = 5.0

Statuses = NDArray[np.int8]


class Member(NamedTuple):
    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    partitions: frozenset[tuple[str, int]]

    @property
    def name(self) -> str:
        """What an operator knows it by: the static id, else client and host."""
        return self.instance_id or f"{self.client_id}@{self.host.lstrip('/')}"


class Described(NamedTuple):
    """A group as its coordinator describes it. `generation` None: it is not told."""

    name: str
    state: str
    kind: str
    generation: int | None
    members: tuple[Member, ...]

    def owners(self) -> dict[tuple[str, int], Member]:
        return {partition: member for member in self.members for partition in member.partitions}


class Lags(NamedTuple):
    """One reading of all groups. Arrays are by partition, and nobody writes to them any more."""

    at: datetime
    monotonic: float
    listed: dict[str, Listed]
    commits: dict[str, dict[str, Offsets]]
    ends: dict[str, Offsets]
    lags: dict[GroupTopic, Offsets]
    statuses: dict[GroupTopic, Statuses]


@dataclass
class KafkaState:
    lock: RLock = field(default_factory=RLock)
    history: History = field(default_factory=History)
    cluster: Cluster | None = None
    lags: Lags | None = None
    described: dict[str, Described] = field(default_factory=dict)
    storms: frozenset[str] = frozenset()
    read: Event = field(default_factory=Event)
    """Set when the lag collector has read for the first time."""
    skew: dict[int, float] = field(default_factory=dict)
    """The clock of each broker less ours, in seconds."""
    configs: dict[str, TopicConfig] = field(default_factory=dict)
    starts: dict[str, Offsets] = field(default_factory=dict)
    """The first offset that is still there, by topic and partition."""

    def skew_of(self, broker: int) -> float:
        """Measured, else the middle of the other brokers' (they tend to share a time server), else none."""
        return self.skew.get(broker, statistics.median(self.skew.values()) if self.skew else 0.0)

    def reading(self) -> tuple[Lags, Cluster]:
        """The newest; at the start it is waited for. Raises KafkaUnavailable when there is none."""
        self.read.wait(_FIRST_READING_SECONDS)
        if self.lags is None or self.cluster is None:
            raise KafkaUnavailable("the lag collector has read nothing yet", fix="see why kafka_lag is unmeasured")
        return self.lags, self.cluster

    def partition(self, topic: str, number: int) -> PartitionState | None:
        found = self.cluster.topics.get(topic) if self.cluster is not None else None
        return found.partitions[number] if found is not None and number < len(found.partitions) else None

    def members(self, group: str) -> int | None:
        """How many the group has; None when that was not measured."""
        described = self.described.get(group)
        return None if described is None else len(described.members)


def kafka_state(_: Context) -> KafkaState:
    """For `Context.shared`."""
    return KafkaState()


def wire_for(context: Context, purpose: str) -> Wire:
    """A client of its own for each collector, so that one's big answers delay nobody else's."""

    def make(context: Context) -> Wire:
        timeout = min(5.0, context.settings.collect.timeout_seconds / 2)
        return Wire(context.settings.kafka, f"tidewatch-collect-{purpose}", timeout)

    return context.shared(make)
