"""Headers of a real record whose name is not UTF-8, which confluent-kafka itself would refuse to write."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from kafka import KafkaProducer

from tidewatch.kafka.admin import KafkaAdmin, NewTopic
from tidewatch.kafka.headers import headers_of
from tidewatch.kafka.reading import LogReader
from tidewatch.kafka.tail import Edge, tail
from tidewatch.settings import Kafka

# In a process of its own: the library itself would take the tests with it.
ASKS_TWICE = """
import gc, sys
from tidewatch.kafka.headers import headers_of
from tidewatch.kafka.reading import LogReader
from tidewatch.settings import Kafka
with LogReader(Kafka(bootstrap=sys.argv[1])) as reader:
    messages, usual = (list(reader.read(sys.argv[2], 0, n, n + 1)) for n in (0, 1))
    # A call that the interpreter has specialised fails in another way.
    for _ in range(1000):
        headers_of(usual[0])
    print(len(messages), [headers_of(message) for message in messages * 3])
    del messages
    gc.collect()
"""


class Latin(str):
    __slots__ = ()

    def encode(self, *_: object, **__: object) -> bytes:
        return b"\xff\xfe"


@pytest.fixture
def topic(kafka: Any, fresh: str) -> Iterator[str]:
    """At offset 0 the record with the foreign name, at 1 and 2 usual ones."""
    name = f"headers.{fresh}"
    with KafkaAdmin(Kafka(bootstrap=kafka.bootstrap)) as admin:
        admin.create_topic(NewTopic(name, 1, 1, {"message.timestamp.type": "LogAppendTime"}))
        foreign = KafkaProducer(bootstrap_servers=kafka.bootstrap)
        foreign.send(name, b"{}", headers=[(Latin("x"), b"v")]).get(20)
        foreign.close()
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        producer.produce(name, b"{}", headers=[("a", b"1"), ("a", b"\xff"), ("none", None)])
        assert producer.flush(20) == 0
        producer.produce(name, b"{}")
        assert producer.flush(20) == 0
        yield name
        admin.delete_topic(name)


def test_headers_as_they_are_and_none_where_they_cannot_be_read(kafka: Any, topic: str) -> None:
    with LogReader(Kafka(bootstrap=kafka.bootstrap)) as reader:
        found = [headers_of(message) for message in reader.read(topic, 0, 0, 3)]
    assert found == [None, [("a", b"1"), ("a", b"\xff"), ("none", b"")], []]


def test_asking_again_says_the_same_and_crashes_nothing(kafka: Any, topic: str) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASKS_TWICE, kafka.bootstrap, topic],
        capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert (asked.returncode, asked.stdout.strip()) == (0, "1 [None, None, None]"), asked.stderr


def test_the_tail_shows_such_a_record_without_headers(kafka: Any, topic: str) -> None:
    shown = list(tail(Kafka(bootstrap=kafka.bootstrap), topic, Edge.BEGINNING, follow=False))
    assert [(record.offset, list(record.headers)) for record in shown] == [(0, []), (1, ["a", "none"]), (2, [])]
