"""Kafka's administration, typed, over kafka-python."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import KafkaConnectionError, KafkaTimeoutError, UnknownTopicOrPartitionError
from kafka.errors import KafkaError as ForeignError
from kafka.net.compat import KafkaNetClient

from tidewatch.errors import KafkaError, KafkaUnavailable
from tidewatch.settings import Kafka

EARLIEST = OffsetSpec.EARLIEST
LATEST = OffsetSpec.LATEST


@dataclass(frozen=True, slots=True)
class Partition:
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


@dataclass(frozen=True, slots=True)
class Topic:
    """`topic_id` as Kafka's own tools print it: 22 characters of URL-safe base64."""

    name: str
    topic_id: str
    partitions: int
    replication: int
    configs: Mapping[str, str] = field(default_factory=dict)
    """Every configuration, defaults included."""


@dataclass(frozen=True, slots=True)
class NewTopic:
    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Committed:
    """A group's committed offset: the next one to read, and the string stored with it."""

    offset: int
    metadata: str


class KafkaAdmin:
    """One connection; not safe to share between threads. Every method raises KafkaUnavailable or KafkaError."""

    def __init__(self, settings: Kafka, *, client_id: str = "tidewatch-admin", timeout_seconds: float = 15) -> None:
        self.settings = settings
        self._client = open_client(settings, client_id, timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def brokers(self) -> tuple[int, ...]:
        """Ids of the brokers that are up."""
        with translated("listing brokers"):
            found = self._client.describe_cluster()["brokers"]
            return tuple(sorted(broker["broker_id"] for broker in found if not broker.get("is_fenced", False)))

    def topic_names(self) -> tuple[str, ...]:
        with translated("listing topics"):
            return tuple(sorted(self._client.list_topics()))

    def topics(self, names: Iterable[str]) -> dict[str, Topic]:
        """Those of `names` that exist, with their configurations."""
        wanted = list(names)
        with translated("describing topics"):
            found = [t for t in self._client.describe_topics(wanted) if t["error_code"] == 0] if wanted else []
            resources = [ConfigResource(ConfigResourceType.TOPIC, topic["name"]) for topic in found]
            configs: dict[str, Any] = {}
            if resources:
                configs = self._client.describe_configs(resources, config_filter="all")["topic"]
        return {topic["name"]: _topic(topic, configs[topic["name"]]) for topic in found}

    def topic(self, name: str) -> Topic:
        """Raises KafkaError when there is none."""
        found = self.topics([name])
        if name not in found:
            raise KafkaError(f"there is no topic {name}", fix="run `tidewatch spec apply`, or check the name")
        return found[name]

    def create_topic(self, new: NewTopic) -> None:
        with translated(f"creating topic {new.name}"):
            options = {
                "num_partitions": new.partitions,
                "replication_factor": new.replication,
                "configs": dict(new.configs),
            }
            self._client.create_topics({new.name: options})
            self._client.wait_for_topics([new.name])

    def delete_topic(self, name: str) -> None:
        with translated(f"deleting topic {name}"):
            self._client.delete_topics([name])

    def add_partitions(self, topic: str, total: int) -> None:
        with translated(f"adding partitions to {topic}"):
            self._client.create_partitions({topic: total})

    def set_configs(self, topic: str, configs: Mapping[str, str]) -> None:
        """Changes those alone; the others stay."""
        with translated(f"configuring {topic}"):
            self._client.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topic, dict(configs))], incremental=True
            )

    def offsets(self, partitions: Iterable[Partition], at: OffsetSpec | datetime) -> dict[Partition, int]:
        """The earliest or end offsets, or for a time the first offset appended at or after it.

        A time after the last record gives the end offset.
        """
        wanted = {
            TopicPartition(p.topic, p.partition): at if isinstance(at, OffsetSpec) else int(at.timestamp() * 1000)
            for p in partitions
        }
        if not wanted:
            return {}
        with translated("looking up offsets"):
            found = self._client.list_partition_offsets(wanted)
            late = {where: LATEST for where, result in found.items() if result.offset < 0}
            if late:
                found |= self._client.list_partition_offsets(late)
        return {Partition(where.topic, where.partition): result.offset for where, result in found.items()}

    def committed(self, group: str) -> dict[Partition, Committed]:
        """What the group has committed; partitions that it never committed are absent."""
        with translated(f"reading the offsets of group {group}"):
            found = self._client.list_group_offsets([group])[group]
        return {
            # confluent-kafka ends the string that it commits with a NUL.
            Partition(where.topic, where.partition): Committed(value.offset, (value.metadata or "").rstrip("\0"))
            for where, value in found.items()
            if value.offset >= 0
        }

    def delete_records(self, before: Mapping[Partition, int]) -> None:
        """Everything below the offset goes, as if retention had removed it."""
        with translated("deleting records"):
            self._client.delete_records({TopicPartition(p.topic, p.partition): offset for p, offset in before.items()})


def open_client(settings: Kafka, client_id: str, timeout_seconds: float, **network: Any) -> Any:
    """kafka-python's client, connected; `network` adds to the settings of its connections. Raises KafkaUnavailable."""
    started: list[Any] = []

    def start(**configs: Any) -> Any:
        started.append(KafkaNetClient(**{**configs, **network}))
        return started[-1]

    try:
        with translated("connecting"):
            return KafkaAdminClient(
                kafka_client=start,
                bootstrap_servers=settings.bootstrap.split(","),
                client_id=client_id,
                request_timeout_ms=int(timeout_seconds * 1000),
                bootstrap_timeout_ms=int(timeout_seconds * 1000),
                security_protocol=settings.security_protocol,
                sasl_mechanism=settings.sasl_mechanism,
                sasl_plain_username=settings.username,
                sasl_plain_password=settings.password.get_secret_value() if settings.password else None,
                ssl_cafile=str(settings.ca_file) if settings.ca_file else None,
            )
    except KafkaError:
        # kafka-python leaves the thread and the sockets of a start that failed.
        for client in started:
            client.close()
            client._net.stop()  # noqa: SLF001 — what KafkaAdminClient.close does
        raise


def topic_id_text(topic_id: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(topic_id.bytes).decode().rstrip("=")


def _topic(found: Mapping[str, Any], configs: Mapping[str, Any]) -> Topic:
    return Topic(
        name=found["name"],
        topic_id=topic_id_text(uuid.UUID(str(found["topic_id"]))),
        partitions=len(found["partitions"]),
        replication=max((len(p["replica_nodes"]) for p in found["partitions"]), default=0),
        configs={name: str(entry["value"]) for name, entry in configs.items() if entry["value"] is not None},
    )


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """kafka-python's errors become ours; `doing` completes "Kafka did not answer while …"."""
    try:
        yield
    except (KafkaConnectionError, KafkaTimeoutError, TimeoutError, OSError) as error:
        fix = "check that the brokers run and TIDEWATCH_KAFKA__BOOTSTRAP names them"
        raise KafkaUnavailable(f"Kafka did not answer while {doing}: {error}", fix=fix) from error
    except UnknownTopicOrPartitionError as error:
        raise KafkaError(
            f"unknown topic or partition while {doing}", fix="run `tidewatch spec apply`, or check the name"
        ) from error
    except ForeignError as error:
        if error.retriable:
            raise KafkaUnavailable(
                f"Kafka could not answer while {doing}: {error}", fix="try again in a moment"
            ) from error
        raise KafkaError(
            f"Kafka refused while {doing}: {error}", fix="see the brokers' logs for the same time"
        ) from error
