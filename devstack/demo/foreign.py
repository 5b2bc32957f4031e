"""A producer that knows nothing of the gateway writes straight into Kafka, not always well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from devstack.demo.events import Event
from tidewatch.errors import KafkaUnavailable
from tidewatch.kafka.client import producer_config
from tidewatch.settings import Kafka


class Written(NamedTuple):
    """`good` and `bad` hold (partition, offset) of the records."""

    good: set[tuple[int, int]]
    bad: set[tuple[int, int]]


def write(settings: Kafka, topic: str, time: str, *, good: int = 300) -> Written:
    """Raises KafkaUnavailable when a record is not acknowledged."""
    producer = Producer(producer_config(settings, "foreign-producer"))
    written = Written(set(), set())
    failures: list[KafkaError] = []

    def note(places: set[tuple[int, int]], error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(error)
        else:
            places.add((message.partition() or 0, message.offset() or 0))

    for index in range(good):
        value = json.dumps(_click(time, index)).encode()
        producer.produce(topic, value, on_delivery=lambda e, m: note(written.good, e, m))
    for bad in _bad(time):
        producer.produce(topic, bad, on_delivery=lambda e, m: note(written.bad, e, m))
    producer.flush(30)
    if failures or len(written.good) + len(written.bad) != good + len(list(_bad(time))):
        raise KafkaUnavailable(
            "the foreign producer's records were not all acknowledged",
            fix="see the broker's log: `tidewatch dev logs kafka`",
        )
    return written


def _click(time: str, index: int) -> Event:
    return {"event": "click", "occurred_at": time, "item_id": index, "position": 1 + index % 3, "campaign": "foreign"}


def _bad(time: str) -> Iterator[bytes | None]:
    """Each of these would be loaded as something else, or twice, by a lax reader."""
    event = _click(time, 1)
    for index in range(5):
        yield json.dumps(event | {"item_id": str(index)}).encode()
        yield json.dumps(event | {"position": 300 + index}).encode()
        yield json.dumps({name: value for name, value in event.items() if name != "item_id"}).encode()
        yield json.dumps(event | {"occurred_at": f"{index} days ago"}).encode()
    good = json.dumps(event).encode()
    yield from (
        good + good,
        good[:-1],
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        good.replace(b"click", b'click","event":"impression'),
        None,
    )
