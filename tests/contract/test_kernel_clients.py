"""The kernel's Kafka and ClickHouse clients against the real services."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tidewatch.clickhouse import ClickHouse
from tidewatch.errors import ClickHouseError, ClickHouseUnavailable, KafkaError, KafkaUnavailable
from tidewatch.kafka.admin import EARLIEST, LATEST, KafkaAdmin, NewTopic, Partition
from tidewatch.kafka.client import consumer_config, producer_config
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.settings import Kafka as KafkaSettings


@pytest.fixture
def admin(kafka: Any) -> Iterator[KafkaAdmin]:
    with KafkaAdmin(KafkaSettings(bootstrap=kafka.bootstrap)) as client:
        yield client


@pytest.fixture
def topic(admin: KafkaAdmin, fresh: str) -> str:
    name = f"kernel.{fresh}"
    admin.create_topic(NewTopic(name, 2, 1, {"message.timestamp.type": "LogAppendTime", "retention.ms": "60000"}))
    return name


def _produce(admin: KafkaAdmin, topic: str, count: int) -> None:
    producer = Producer(producer_config(admin.settings, "test"))
    for index in range(count):
        producer.produce(topic, b"%d" % index, partition=0)
    assert producer.flush(10) == 0


def test_a_topic_is_described_with_its_id_and_configuration(admin: KafkaAdmin, topic: str) -> None:
    found = admin.topic(topic)
    assert (found.partitions, found.replication, len(found.topic_id)) == (2, 1, 22)
    assert found.configs["message.timestamp.type"] == "LogAppendTime"
    assert found.configs["cleanup.policy"] == "delete"
    admin.add_partitions(topic, 3)
    admin.set_configs(topic, {"retention.ms": "120000"})
    changed = admin.topic(topic)
    assert (changed.partitions, changed.topic_id, changed.configs["retention.ms"]) == (3, found.topic_id, "120000")
    assert changed.configs["message.timestamp.type"] == "LogAppendTime"


def test_a_missing_topic_is_absent_from_many_and_an_error_alone(admin: KafkaAdmin, topic: str, fresh: str) -> None:
    assert list(admin.topics([topic, f"no.{fresh}"])) == [topic]
    with pytest.raises(KafkaError, match=f"there is no topic no.{fresh}"):
        admin.topic(f"no.{fresh}")


def test_a_recreated_topic_has_another_id(admin: KafkaAdmin, topic: str, fresh: str) -> None:
    before = admin.topic(topic).topic_id
    admin.delete_topic(topic)
    again = f"again.{fresh}"
    admin.create_topic(NewTopic(again, 1, 1, {}))
    assert admin.topic(again).topic_id != before


def test_offsets_by_position_and_by_time(admin: KafkaAdmin, topic: str) -> None:
    first = Partition(topic, 0)
    _produce(admin, topic, 5)
    now = datetime.now(UTC)
    both = [first, Partition(topic, 1)]
    assert admin.offsets(both, LATEST) == {first: 5, Partition(topic, 1): 0}
    assert admin.offsets([first], now - timedelta(hours=1)) == {first: 0}
    assert admin.offsets([first], now + timedelta(hours=1)) == {first: 5}
    admin.delete_records({first: 3})
    assert admin.offsets([first], EARLIEST) == {first: 3}


def test_committed_offsets_come_with_their_metadata(admin: KafkaAdmin, topic: str, fresh: str) -> None:
    consumer = Consumer(consumer_config(admin.settings, "test", f"group.{fresh}"))
    consumer.commit(offsets=[TopicPartition(topic, 1, 7, metadata="intent")], asynchronous=False)
    consumer.close()
    committed = admin.committed(f"group.{fresh}")
    assert list(committed) == [Partition(topic, 1)]
    assert (committed[Partition(topic, 1)].offset, committed[Partition(topic, 1)].metadata) == (7, "intent")


def test_a_broker_that_is_away_is_retryable_and_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with pytest.raises(KafkaUnavailable, match="TIDEWATCH_KAFKA__BOOTSTRAP"):
        KafkaAdmin(KafkaSettings(bootstrap=f"127.0.0.1:{_closed_port()}"), timeout_seconds=2)
    assert threading.active_count() == before


@pytest.fixture
def engine(clickhouse: Any, fresh: str) -> Iterator[ClickHouse]:
    settings = ClickHouseSettings(url=clickhouse.url)
    with ClickHouse(settings) as outside:
        outside.command(f"CREATE DATABASE kernel_{fresh}")
    with ClickHouse(settings, database=f"kernel_{fresh}") as inside:
        yield inside


def test_parameters_are_bound_by_the_server(engine: ClickHouse) -> None:
    nasty = "'; DROP TABLE t; -- \\ \n ☃"
    assert engine.query("SELECT {a:String}, {b:UInt64}", {"a": nasty, "b": 2**64 - 1}) == [(nasty, 2**64 - 1)]
    assert engine.scalar("SELECT {a:DateTime64(6, 'UTC')}", {"a": "2026-01-02 03:04:05.000006"}) == datetime(
        2026, 1, 2, 3, 4, 5, 6, UTC
    )
    assert engine.dicts("SELECT 1 AS x") == [{"x": 1}]
    assert engine.version >= (24, 8)


def _body(values: list[bytes]) -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"raw": pa.array(values, pa.binary())})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def test_a_body_is_inserted_through_a_select_and_queried_without_an_insert(engine: ClickHouse) -> None:
    engine.command("CREATE TABLE t (x UInt32, tag String) ENGINE = MergeTree ORDER BY x")
    body = _body([b'{"x":1}', b'{"x":2}'])
    insert = "INSERT INTO t SELECT JSONExtractUInt(raw, 'x'), {tag:String} FROM input('raw String') FORMAT ArrowStream"
    engine.insert_body(insert, body, parameters={"tag": "a"}, query_id="kernel-test")
    assert engine.query("SELECT x, tag FROM t ORDER BY x") == [(1, "a"), (2, "a")]
    assert engine.query_over(
        "SELECT raw FROM batch WHERE JSONExtractUInt(raw, 'x') > {n:UInt8}", body, ["raw String"], parameters={"n": 1}
    ) == [(b'{"x":2}'.decode(),)]
    with pytest.raises(ValueError, match="body"):
        engine.insert_body(insert, b"")


def test_a_refusal_has_the_servers_code_and_is_not_retryable(engine: ClickHouse) -> None:
    with pytest.raises(ClickHouseError) as caught:
        engine.query("SELECT * FROM missing")
    assert (caught.value.code, caught.value.retryable) == (60, False)


def test_a_server_that_is_away_is_retryable() -> None:
    with pytest.raises(ClickHouseUnavailable) as caught:
        ClickHouse(ClickHouseSettings(url=f"http://127.0.0.1:{_closed_port()}"))
    assert caught.value.retryable


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
