"""The loader without its guarantees: consume, join, insert, commit; the same fetch, batches, body, overlap and tables.

    python -m bench._bare_loader BOOTSTRAP TOPIC URL DATABASE SPECS BATCH_ROWS

What it lacks: intents, tokens, deadlines, ownership, the search for bad records, range records, metrics and traces. It
parses with the same lax JSONExtract, and takes whatever comes of it.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from ingest.loader.collector import Collector, Size
from ingest.loader.rows import frame_events
from ingest.schema.extract import STRUCTURE
from ingest.schema.rules import rules
from ingest.schema.sql import ident, literal
from tidewatch.clickhouse import ClickHouse
from tidewatch.clock import SystemClock
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.spec import Spec, load_all

SETTINGS = {"async_insert": 0, "max_threads": 1, "max_insert_threads": 1, "max_block_size": 10_000_000}


def plain_sql(spec: Spec, database: str) -> str:
    """One lax parse into the table's columns; nothing is looked at twice."""
    fields = rules(spec.schema_.fields)
    lax = ", ".join(f"{ident(rule.name)} {rule.lax_type}" for rule in fields)
    values = {
        "_topic_id": "'bare'",
        "_partition": "_partition",
        "_offset": "_offset",
        "_event_id": "header[1]",
        "_project": "header[4]",
        "_schema": "toUInt16OrZero(header[3])",
        "_received_at": "fromUnixTimestamp64Micro(toInt64OrZero(header[2]), 'UTC')",
        **{rule.name: f"assumeNotNull({rule.v})" if rule.field.required else rule.v for rule in fields},
    }
    elements = ", ".join(f"tupleElement(t, {i}) AS {rule.x}" for i, rule in enumerate(fields, 1))
    derived = ", ".join(f"{rule.value} AS {rule.v}" for rule in fields)
    columns, selected = ", ".join(map(ident, values)), ", ".join(values.values())
    source = f"SELECT *, splitByChar(';', tw) AS header, JSONExtract(raw, {literal(f'Tuple({lax})')}) AS t"
    return (
        f"INSERT INTO {ident(database)}.{ident(spec.table.name)} ({columns}) SELECT {selected} FROM"
        f" (SELECT *, {derived} FROM (SELECT *, {elements} FROM ({source} FROM input({literal(', '.join(STRUCTURE))}))))"
        " FORMAT ArrowStream"
    )


def main() -> None:
    bootstrap, topic, url, database, specs, batch_rows = sys.argv[1:]
    spec = load_all(Path(specs))["clicks"]
    clickhouse = ClickHouse(ClickHouseSettings(url=url, database=database))
    sql = plain_sql(spec, database)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"bare.{topic}",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 100,
            "fetch.max.bytes": 8 * 1024 * 1024,
            "max.partition.fetch.bytes": 1024 * 1024,
            "queued.max.messages.kbytes": 32_768,
            "queued.min.messages": 100_000,
            "check.crcs": True,
        }
    )
    consumer.subscribe([topic])
    collector = Collector(frame_events, Size(int(batch_rows), 64 * 1024 * 1024, 0.5), SystemClock())
    worker = ThreadPoolExecutor(1)
    flying: Future[dict[int, int]] | None = None

    def insert(batch: Any) -> dict[int, int]:
        clickhouse.insert_body(sql, batch.rows.body(), settings=SETTINGS)
        return dict(batch.lasts)

    while True:
        while not collector.ripe or (flying is not None and not flying.done()):
            if collector.room:
                collector.add(consumer.consume(min(collector.room, 10_000), 0.02))
            elif flying is not None:
                flying.exception()
        if flying is not None:
            lasts = flying.result()
            consumer.commit(offsets=[TopicPartition(topic, p, o + 1) for p, o in lasts.items()], asynchronous=False)
        flying = worker.submit(insert, collector.take())


if __name__ == "__main__":
    main()
