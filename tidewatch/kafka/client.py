"""Configurations for confluent-kafka, as the data path wants them.

confluent-kafka refuses unknown keys itself, so these stay plain dictionaries.
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError as ConfluentError
from confluent_kafka import KafkaException

from tidewatch.errors import KafkaError, KafkaUnavailable
from tidewatch.settings import Kafka

Config = dict[str, Any]

# librdkafka's own codes begin with an underscore; they are public all the same.
_AWAY = frozenset(
    getattr(ConfluentError, name)
    for name in (
        "_ALL_BROKERS_DOWN",
        "_TRANSPORT",
        "_TIMED_OUT",
        "_MSG_TIMED_OUT",
        "_RESOLVE",
        "REQUEST_TIMED_OUT",
        "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        "LEADER_NOT_AVAILABLE",
        "COORDINATOR_NOT_AVAILABLE",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "NOT_LEADER_FOR_PARTITION",
        "BROKER_NOT_AVAILABLE",
    )
)


def common_config(settings: Kafka, client_id: str) -> Config:
    config: Config = {
        "bootstrap.servers": settings.bootstrap,
        "client.id": client_id,
        "security.protocol": settings.security_protocol.lower(),
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "socket.nagle.disable": True,
        "log.connection.close": False,
    }
    if settings.sasl_mechanism is not None:
        config |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.username or "",
            "sasl.password": settings.password.get_secret_value() if settings.password else "",
        }
    if settings.ca_file is not None:
        config["ssl.ca.location"] = str(settings.ca_file)
    return config


def producer_config(settings: Kafka, client_id: str, **over: Any) -> Config:
    """Acknowledged by all in-sync replicas, idempotent, compressed. `over` uses underscores for dots."""
    config = common_config(settings, client_id) | {
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
        "linger.ms": 5,
        "retry.backoff.ms": 10,
    }
    return config | _dotted(over)


def consumer_config(settings: Kafka, client_id: str, group: str, **over: Any) -> Config:
    """Committed records only, offsets committed by hand, and no silent jump when a position is gone."""
    config = common_config(settings, client_id) | {
        "group.id": group,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": False,
    }
    return config | _dotted(over)


def translate(error: KafkaException | ConfluentError, doing: str) -> KafkaError:
    """Our error for theirs; `doing` completes "Kafka failed while …"."""
    inner = error.args[0] if isinstance(error, KafkaException) else error
    if isinstance(inner, ConfluentError) and (inner.code() in _AWAY or inner.retriable()):
        return KafkaUnavailable(
            f"Kafka did not answer while {doing}: {inner.str()}",
            fix="check that the brokers run and TIDEWATCH_KAFKA__BOOTSTRAP names them",
        )
    text = inner.str() if isinstance(inner, ConfluentError) else str(inner)
    return KafkaError(f"Kafka failed while {doing}: {text}", fix="see the brokers' logs for the same time")


def _dotted(over: dict[str, Any]) -> Config:
    return {name.replace("_", "."): value for name, value in over.items()}
