"""`tidewatch tail` against a real broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from devstack.kafka import KafkaCluster
from tidewatch.errors import UsageError
from tidewatch.kafka.tail import Edge, Record, Start, tail
from tidewatch.settings import Kafka


@pytest.fixture
def settings(kafka: KafkaCluster) -> Kafka:
    return Kafka(bootstrap=kafka.bootstrap)


@pytest.fixture
def topic(kafka: KafkaCluster, fresh: str) -> str:
    """Two partitions; ten events, `n` from 0, in turn; the key is the partition."""
    name = f"raw.tail.{fresh}"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])[name].result(timeout=30)
    produce(kafka, name, *range(10))
    return name


def produce(kafka: KafkaCluster, topic: str, *numbers: int) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "acks": "all", "linger.ms": 0})
    for n in numbers:
        value = json.dumps({"n": n, "event": "odd" if n % 2 else "even"})
        producer.produce(topic, value, key=str(n % 2), partition=n % 2)
    assert producer.flush(30) == 0


def numbers(records: list[Record]) -> list[int]:
    return sorted(record.event["n"] for record in records)


@pytest.mark.parametrize(
    ("start", "expected"),
    [(Edge.BEGINNING, list(range(10))), (Edge.END, []), (3, [6, 7, 8, 9]), (99, [])],
)
def test_without_follow_it_shows_what_is_there_and_ends(
    settings: Kafka, topic: str, start: Start, expected: list[int]
) -> None:
    assert numbers(list(tail(settings, topic, start, follow=False))) == expected


def test_a_time_is_a_place_to_start(settings: Kafka, topic: str) -> None:
    now = datetime.now(UTC)
    assert numbers(list(tail(settings, topic, now - timedelta(hours=1), follow=False))) == list(range(10))
    assert list(tail(settings, topic, now + timedelta(hours=1), follow=False)) == []


def test_it_follows_what_arrives(kafka: KafkaCluster, settings: Kafka, topic: str) -> None:
    records = tail(settings, topic, Edge.BEGINNING)
    assert numbers([next(records) for _ in range(10)]) == list(range(10))
    sender = threading.Thread(target=produce, args=(kafka, topic, 10, 11))
    sender.start()
    assert numbers([next(records) for _ in range(2)]) == [10, 11]
    sender.join()
    records.close()


def test_an_unknown_topic_says_which_there_are(settings: Kafka, topic: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {topic}"):
        next(tail(settings, topic + "x"))


def command(kafka: KafkaCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TIDEWATCH_KAFKA__BOOTSTRAP": kafka.bootstrap}
    return subprocess.run(
        [sys.executable, "-m", "controlplane.cli.main", "tail", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_filters_limits_and_prints_json_lines(kafka: KafkaCluster, topic: str) -> None:
    shown = command(kafka, topic, "--from", "beginning", "--where", "event=odd", "--key", "1", "--limit", "3", "--json")
    assert shown.returncode == 0, shown.stderr
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(line["partition"], line["offset"], line["value"]["n"]) for line in lines] == [
        (1, 0, 1),
        (1, 1, 3),
        (1, 2, 5),
    ]


def test_the_command_names_the_topics_there_are(kafka: KafkaCluster, topic: str) -> None:
    shown = command(kafka, "no.such.topic")
    assert shown.returncode == 2
    assert "there is no topic no.such.topic" in shown.stderr
    assert topic in shown.stderr
    assert "Traceback" not in shown.stderr
