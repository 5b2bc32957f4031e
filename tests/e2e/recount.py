"""The verdict after each fault: every record of a topic is exactly once a row or a letter, and the aggregates are a recount."""

from __future__ import annotations

from collections import Counter

from ingest.loader.aggregates import differing
from ingest.schema.ddl import aggregate_view
from tidewatch.clickhouse import ClickHouse
from tidewatch.kafka.admin import EARLIEST, LATEST, KafkaAdmin, Partition
from tidewatch.kafka.reading import LogReader
from tidewatch.settings import Kafka
from tidewatch.spec import Spec


def recount(bootstrap: str, clickhouse: ClickHouse, spec: Spec) -> list[str]:
    """What is wrong, by partition and offset; empty when nothing is. Reads the whole topic."""
    settings = Kafka(bootstrap=bootstrap)
    with KafkaAdmin(settings) as admin:
        topic = admin.topic(spec.topic.name)
        partitions = [Partition(topic.name, p) for p in range(topic.partitions)]
        lows, ends = admin.offsets(partitions, EARLIEST), admin.offsets(partitions, LATEST)
    wrong: list[str] = []
    for where in partitions:
        p = where.partition
        with LogReader(settings) as reader:
            log = {m.offset() for m in reader.read(topic.name, p, lows[where], ends[where])}
        rows = _counted(
            clickhouse, f"SELECT _offset FROM {spec.table.name} WHERE _topic_id = {{t:String}} AND _partition = {{p:Int32}}",
            topic.topic_id, p,
        )  # fmt: skip
        letters = _counted(
            clickhouse,
            "SELECT assumeNotNull(origin_offset) FROM dead_letters"
            " WHERE origin_topic_id = {t:String} AND origin_partition = {p:Int32}",
            topic.topic_id, p,
        )  # fmt: skip
        copies = rows + letters
        wrong += [f"partition {p} offset {o}: lost" for o in sorted(log - set(copies))]
        wrong += [
            f"partition {p} offset {o}: {rows[o]} rows and {letters[o]} letters" for o, n in copies.items() if n != 1
        ]
        wrong += [f"partition {p} offset {o}: not in the log" for o in copies if o >= ends[where]]
    for aggregate in spec.aggregates:
        hours = differing(clickhouse, aggregate_view(spec, aggregate))
        wrong += [f"{aggregate.name} differs from a recount in hour {hour}" for hour in hours]
    return wrong


def _counted(clickhouse: ClickHouse, query: str, topic_id: str, partition: int) -> Counter[int]:
    rows = clickhouse.query(query, {"t": topic_id, "p": partition})
    return Counter(int(offset) for (offset,) in rows)
