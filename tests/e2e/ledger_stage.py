"""One pipeline on a real broker and a real warehouse, loaded by hand, so that a test can load it wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from ingest.ledger.check import check
from ingest.ledger.positions import loader_group
from ingest.ledger.ranges import DDL, RangeRecord, write_ranges
from ingest.ledger.report import Finding, PipelineReport, Report
from ingest.ledger.sources import Sources
from ingest.ledger.window import Window
from ingest.schema.ddl import dead_letters_table, raw_table
from tidewatch.clickhouse import ClickHouse
from tidewatch.kafka.admin import KafkaAdmin, NewTopic, Partition
from tidewatch.kafka.client import consumer_config, producer_config
from tidewatch.kafka.reading import LogReader
from tidewatch.record import Envelope, Failure, Origin, letter_headers
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.settings import Kafka, Settings
from tidewatch.spec import Spec, load

ROOT = Path(__file__).parents[2]
PARTITIONS = 2
TRACE = f"00-{1:032x}-{2:016x}-00"
Place = tuple[int, int]
"""(partition, offset)"""


def envelope(event_id: str) -> bytes:
    return Envelope(event_id, int(datetime.now(UTC).timestamp() * 1_000_000), 1, "shop", TRACE).encode()


@dataclass
class LedgerStage:
    settings: Settings
    spec: Spec
    clickhouse: ClickHouse
    admin: KafkaAdmin
    topic_id: str
    sent: int = 0
    produced: dict[str, Any] = field(default_factory=dict)

    # The log

    def produce(
        self, count: int, partition: int = 0, *, topic: str = "", headers: Callable[[str], Any] | None = None
    ) -> None:
        producer = Producer(producer_config(self.settings.kafka, "test"))
        for _ in range(count):
            self._one(producer, partition, topic, headers)
        assert producer.flush(20) == 0

    def _one(self, producer: Producer, partition: int, topic: str, headers: Callable[[str], Any] | None) -> None:
        event_id = f"e{self.sent}"
        self.sent += 1
        given = headers(event_id) if headers else [("tw", envelope(event_id))]
        producer.produce(topic or self.spec.topic.name, b"{}", partition=partition, headers=given)

    def transaction(self, count: int, partition: int = 0, *, commit: bool = True) -> None:
        """Leaves a control record behind, after the records."""
        producer = Producer(producer_config(self.settings.kafka, "test", transactional_id=f"t-{self.spec.topic.name}"))
        producer.init_transactions(20)
        producer.begin_transaction()
        for _ in range(count):
            self._one(producer, partition, "", None)
        producer.flush(20)
        if commit:
            producer.commit_transaction(20)
        else:
            producer.abort_transaction(20)

    def records(self, partition: int = 0, topic: str = "") -> list[Message]:
        with LogReader(self.settings.kafka) as reader:
            first = self.oldest(partition) if not topic else 0
            return list(reader.read(topic or self.spec.topic.name, partition, first, 1 << 40))

    def oldest(self, partition: int = 0) -> int:
        from tidewatch.kafka.admin import EARLIEST  # noqa: PLC0415 — used here alone

        where = Partition(self.spec.topic.name, partition)
        return self.admin.offsets([where], EARLIEST)[where]

    def expire(self, before: int, partition: int = 0) -> None:
        self.admin.delete_records({Partition(self.spec.topic.name, partition): before})

    # The loader's part

    def load(self, *, partition: int = 0, skip: Iterable[int] = (), commit: bool = True) -> list[int]:
        """Insert a row for each record but those of `skip`; commit behind the last."""
        left_out = set(skip)
        messages = self.records(partition)
        offsets = [message.offset() or 0 for message in messages if message.offset() not in left_out]
        self.insert([(partition, offset) for offset in offsets], ids=_ids(messages))
        if commit and messages:
            self.commit(partition, (messages[-1].offset() or 0) + 1)
        return [message.offset() or 0 for message in messages]

    def insert(self, places: Sequence[Place], ids: dict[int, str] | None = None, topic_id: str = "") -> None:
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"
        rows = [
            {
                "_topic_id": topic_id or self.topic_id,
                "_partition": partition,
                "_offset": offset,
                "_event_id": (ids or {}).get(offset, f"{partition}:{offset}"),
                "_project": "shop",
                "_received_at": now,
            }
            for partition, offset in places
        ]
        for start in range(0, len(rows), 100_000):
            body = "\n".join(map(json.dumps, rows[start : start + 100_000])).encode()
            self.clickhouse.insert_body(f"INSERT INTO {self.spec.table.name} FORMAT JSONEachRow", body)

    def commit(self, partition: int, offset: int, topic: str = "", metadata: str = "") -> None:
        name = topic or self.spec.topic.name
        consumer = Consumer(consumer_config(self.settings.kafka, "test", loader_group(name)))
        (done,) = consumer.commit(offsets=[TopicPartition(name, partition, offset, metadata)], asynchronous=False) or [
            None
        ]
        assert done is not None
        assert done.error is None
        consumer.close()

    def forget_offsets(self) -> None:
        """As after the group's offsets have expired."""
        admin = AdminClient({"bootstrap.servers": self.settings.kafka.bootstrap})
        for future in admin.delete_consumer_groups([loader_group(self.spec.topic.name)]).values():
            future.result(20)

    def bury(self, offset: int, partition: int = 0, *, load: bool = True) -> int:
        """A dead letter of that record, in Kafka and (with `load`) in the warehouse; its offset."""
        origin = Origin(self.spec.topic.name, self.topic_id, partition, offset)
        return self._letter("loader", origin, load=load)

    def bury_at_gateway(self) -> int:
        return self._letter("gateway", None, load=True)

    def _letter(self, stage: str, origin: Origin | None, *, load: bool) -> int:
        dlq = self.spec.dead_letters.topic
        headers = letter_headers(
            pipeline=self.spec.name,
            stage=stage,
            failure=Failure("missing_field", "event", "event is required"),
            origin=origin,
            failed_at=datetime.now(UTC),
            version="test",
        )
        self.produce(1, topic=dlq, headers=lambda event_id: [("tw", envelope(event_id)), *headers])
        place = self.records(topic=dlq)[-1].offset() or 0
        if load:
            self.load_letter(place, stage, origin)
        return place

    def load_letter(self, place: int, stage: str, origin: Origin | None) -> None:
        row = {
            "_topic": self.spec.dead_letters.topic,
            "_topic_id": self.admin.topic(self.spec.dead_letters.topic).topic_id,
            "_partition": 0,
            "_offset": place,
            "_appended_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
            "pipeline": self.spec.name,
            "stage": stage,
            "origin_topic": origin.topic if origin else "",
            "origin_topic_id": origin.topic_id if origin else "",
            "origin_partition": origin.partition if origin else None,
            "origin_offset": origin.offset if origin else None,
        }
        self.clickhouse.insert_body("INSERT INTO dead_letters FORMAT JSONEachRow", json.dumps(row).encode())
        self.commit(0, place + 1, self.spec.dead_letters.topic)

    def ranges(self, *spans: tuple[int, int, int, int], partition: int = 0) -> None:
        """(first, last, loaded, dead) each, appended now."""
        now = datetime.now(UTC)
        ms = int(now.timestamp() * 1000)
        self.clickhouse.command(DDL)
        records = [
            RangeRecord(
                topic=self.spec.topic.name,
                topic_id=self.topic_id,
                partition=partition,
                first=first,
                last=last,
                seen=loaded + dead,
                loaded=loaded,
                dead=dead,
                expired=0,
                min_appended_ms=ms - 1000,
                max_appended_ms=ms,
                block=f"{first}",
                loader_version="test",
                written_at=now,
            )
            for first, last, loaded, dead in spans
        ]
        write_ranges(self.clickhouse, records)

    def delete(self, where: str, table: str = "") -> None:
        name = table or self.spec.table.name
        self.clickhouse.command(f"DELETE FROM {name} WHERE {where}", settings={"mutations_sync": 2})

    # The ledger

    def check(self, window: Window = Window()) -> PipelineReport:  # noqa: B008 — a frozen value
        (report,) = self.report(window).pipelines
        return report

    def report(self, window: Window = Window()) -> Report:  # noqa: B008
        with Sources.open(self.settings) as sources:
            return check(window, [self.spec], sources, datetime.now(UTC))


def found(report: PipelineReport) -> list[tuple[str, int, int, int, int]]:
    """(kind, partition, first, last, count) of each finding."""
    return sorted((f.kind, f.partition, f.first, f.last, f.count) for f in report.findings)


def details(report: PipelineReport) -> str:
    return "; ".join(finding.detail for finding in report.findings)


def _ids(messages: Sequence[Message]) -> dict[int, str]:
    ids = {}
    for message in messages:
        tw = dict(list(message.headers() or [])).get("tw")
        if isinstance(tw, bytes):
            ids[message.offset() or 0] = tw.decode().split(";")[0]
    return ids


@contextmanager
def ledger_stage(
    kafka: Any, clickhouse: Any, directory: Path, fresh: str, spec: str = "clicks"
) -> Iterator[LedgerStage]:
    text = (ROOT / "pipelines" / f"{spec}.yaml").read_text().replace(f"{spec}.v1", f"{spec}.{fresh}")
    pipelines = directory / "pipelines"
    pipelines.mkdir()
    (pipelines / f"{spec}.yaml").write_text(text)
    made = load(pipelines / f"{spec}.yaml")
    database = f"ledger_{fresh}"
    with ClickHouse(ClickHouseSettings(url=clickhouse.url)) as client:
        client.command(f"CREATE DATABASE {database}")
    settings = Settings(
        pipelines=pipelines,
        kafka=Kafka(bootstrap=kafka.bootstrap),
        clickhouse=ClickHouseSettings(url=clickhouse.url, database=database),
    )
    with KafkaAdmin(settings.kafka) as admin, ClickHouse(settings.clickhouse) as client:
        for name in (made.topic.name, made.dead_letters.topic):
            partitions = PARTITIONS if name == made.topic.name else 1
            admin.create_topic(NewTopic(name, partitions, 1, {"message.timestamp.type": "LogAppendTime"}))
        client.command(raw_table(made).create(database))
        client.command(dead_letters_table().create(database))
        yield LedgerStage(settings, made, client, admin, admin.topic(made.topic.name).topic_id)
        client.command(f"DROP DATABASE {database}")


__all__ = ["Finding", "LedgerStage", "details", "found", "ledger_stage"]
