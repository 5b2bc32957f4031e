"""Records that only a foreign producer can write: each has an outcome, and none stops the loader."""

from __future__ import annotations

import json

from confluent_kafka import Producer
from kafka import KafkaProducer
from loader_fixtures import balanced, rig
from loader_rig import Rig

from tidewatch.kafka.client import producer_config
from tidewatch.record import Letter
from tidewatch.settings import Kafka

__all__ = ["rig"]


class Latin(str):
    """kafka-python asks a header's name to encode itself."""

    __slots__ = ()

    def encode(self, *_: object, **__: object) -> bytes:
        return b"\xff\xfe"


def test_headers_that_cannot_be_read_make_a_letter(rig: Rig) -> None:
    rig.send(10)
    foreign = KafkaProducer(bootstrap_servers=rig.bootstrap)
    event = rig.event()
    foreign.send(rig.topic, event, headers=[(Latin("x"), b"v")]).get(20)
    foreign.close()
    rig.send(10)
    rig.loader()
    balanced(rig)
    assert rig.clickhouse.query("SELECT error, value FROM dead_letters") == [("bad_header", event.decode())]


def test_a_bad_record_larger_than_a_message_may_be_makes_a_letter(rig: Rig) -> None:
    large = json.dumps({"event": "x" * 1_500_000}).encode()
    # Compressed it fits the topic, and is larger than a letter may be when it comes out.
    huge = json.dumps({"event": "y" * 12_000_000}).encode()
    producer = Producer(producer_config(Kafka(bootstrap=rig.bootstrap), "foreign", message_max_bytes=20_000_000))
    for value in (large, huge):
        producer.produce(rig.topic, value)
        assert producer.flush(30) == 0
    rig.send(10)
    rig.loader()
    balanced(rig)
    rows = rig.clickhouse.query(
        "SELECT length(value), headers[{name:String}] FROM dead_letters ORDER BY 1", {"name": Letter.TRUNCATED}
    )
    assert rows[0] == (len(large), "")
    assert rows[1][0] < len(huge)
    assert rows[1][1] == str(len(huge))
