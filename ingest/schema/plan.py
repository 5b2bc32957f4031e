"""The difference between the specs and what is live, as changes to make or to refuse; and making them."""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ingest.ledger import ranges
from ingest.schema import ddl, topics
from ingest.schema.changes import Additive, AddPartitions, Change, CreateTopic, Refused, SetConfigs, Statement, Step
from ingest.schema.live import LiveTable, format_select, read_tables
from ingest.schema.sql import ident
from ingest.schema.tables import compare_table, compare_view
from tidewatch.clickhouse import ClickHouse
from tidewatch.clock import Clock
from tidewatch.kafka.admin import KafkaAdmin
from tidewatch.spec import Spec

# Tables that belong to no pipeline stand under this name.
OURS = "tidewatch"
_RECORD = f"table {ddl.applies_table().name}"
_FROM_NOW = "it counts what is loaded from now on; the rows that are there are not in it"


@dataclass(frozen=True, slots=True)
class Plan:
    specs: Mapping[str, Spec]
    changes: tuple[Change, ...]

    @property
    def additive(self) -> tuple[Additive, ...]:
        return tuple(change for change in self.changes if isinstance(change, Additive))

    @property
    def refused(self) -> tuple[Refused, ...]:
        return tuple(change for change in self.changes if isinstance(change, Refused))

    def as_json(self) -> dict[str, Any]:
        return {"additive": list(map(_plain, self.additive)), "refused": list(map(_plain, self.refused))}


def plan(specs: Mapping[str, Spec], kafka: KafkaAdmin, clickhouse: ClickHouse) -> Plan:
    """Reads only. The database is the one of the client's settings, which need not exist yet.

    What an interrupted apply has made is live, so the plan after it holds the rest.
    """
    database = clickhouse.settings.database
    changes = [*_database(clickhouse, database), *_tables(specs, clickhouse, database), *_topics(specs, kafka)]
    return Plan(specs, tuple(changes))


def _database(clickhouse: ClickHouse, database: str) -> Iterator[Change]:
    found = clickhouse.query("SELECT 1 FROM system.databases WHERE name = {name:String}", {"name": database})
    if not found:
        sql = f"CREATE DATABASE IF NOT EXISTS {ident(database)}"
        yield Additive(OURS, f"database {database}", "create", (Statement(sql),))


def _tables(specs: Mapping[str, Spec], clickhouse: ClickHouse, database: str) -> Iterator[Change]:
    names = [ranges.TABLE, *(table.name for table in ddl.own_tables())]
    for spec in specs.values():
        names.append(spec.table.name)
        names += [name for aggregate in spec.aggregates for name in (aggregate.name, f"{aggregate.name}_view")]
    live = read_tables(clickhouse, database, names)
    for table in ddl.own_tables():
        yield from compare_table(OURS, database, table, live.get(table.name))
    if ranges.TABLE not in live:
        sql = ranges.DDL.replace(ranges.TABLE, f"{ident(database)}.{ident(ranges.TABLE)}", 1)
        yield Additive(OURS, f"table {ranges.TABLE}", "create", (Statement(sql),))
    for spec in specs.values():
        yield from compare_table(spec.name, database, ddl.raw_table(spec), live.get(spec.table.name))
        yield from _aggregates(spec, clickhouse, database, live)


def _aggregates(spec: Spec, clickhouse: ClickHouse, database: str, live: Mapping[str, LiveTable]) -> Iterator[Change]:
    note = _FROM_NOW if spec.table.name in live else ""

    def formatted(select: str) -> str:
        return format_select(clickhouse, select)

    for aggregate in spec.aggregates:
        view = ddl.aggregate_view(spec, aggregate)
        types = {row[0]: row[1] for row in clickhouse.query(ddl.types_sql(spec, aggregate))}
        table = ddl.aggregate_table(spec, aggregate, types)
        yield from compare_table(spec.name, database, table, live.get(table.name))
        yield from compare_view(spec.name, database, view, live.get(view.name), formatted, note=note)


def _topics(specs: Mapping[str, Spec], kafka: KafkaAdmin) -> Iterator[Change]:
    brokers = len(kafka.brokers())
    wanted = {name: topics.wanted(spec, brokers) for name, spec in specs.items()}
    names = [topic.name for pair in wanted.values() for topic in pair]
    existing = set(kafka.topic_names())
    live = kafka.topics([name for name in names if name in existing])
    for name, pair in wanted.items():
        for topic in pair:
            yield from topics.compare(specs[name], topic, live.get(topic.name))


def apply(
    wanted: Plan,
    kafka: KafkaAdmin,
    clickhouse: ClickHouse,
    clock: Clock,
    *,
    on_done: Callable[[Additive], None] = lambda _: None,
) -> None:
    """Make the additive changes, tables before topics, so that nothing can be sent before it can be loaded.

    Then record them in `spec_applies`, one row per pipeline that changed. Cut short, it is completed by planning and
    applying again.
    """
    done: list[Additive] = []
    try:
        for change in wanted.additive:
            for step in change.steps:
                _run(step, kafka, clickhouse)
            done.append(change)
            on_done(change)
    finally:
        makes_table = any(_is_record(change) for change in wanted.additive)
        if not makes_table or any(map(_is_record, done)):
            _record(done, wanted.specs, clickhouse, clock)


def _is_record(change: Additive) -> bool:
    return change.target == _RECORD and change.what.startswith("create")


def _run(step: Step, kafka: KafkaAdmin, clickhouse: ClickHouse) -> None:
    match step:
        case Statement(sql):
            clickhouse.command(sql)
        case CreateTopic(topic):
            kafka.create_topic(topic)
        case AddPartitions(topic, total):
            kafka.add_partitions(topic, total)
        case SetConfigs(topic, configs):
            kafka.set_configs(topic, configs)


def _record(done: list[Additive], specs: Mapping[str, Spec], clickhouse: ClickHouse, clock: Clock) -> None:
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    for name in sorted({change.pipeline for change in done}):
        changes = [change for change in done if change.pipeline == name]
        spec = specs.get(name)
        clickhouse.command(
            f"INSERT INTO {ident(clickhouse.settings.database)}.spec_applies "
            "(applied_at, pipeline, schema_version, spec_hash, changes, applied_by) SELECT "
            "fromUnixTimestamp64Milli({at:Int64}, 'UTC'), {pipeline:String}, {version:UInt16}, {hash:String}, "
            "{changes:String}, {by:String}",
            {
                "at": int(clock.now().timestamp() * 1000),
                "pipeline": name,
                "version": spec.schema_.version if spec else 0,
                "hash": spec_hash(spec) if spec else "",
                "changes": json.dumps([{"target": c.target, "what": c.what} for c in changes], ensure_ascii=False),
                "by": by,
            },
            settings={"async_insert": 0},
        )


def spec_hash(spec: Spec) -> str:
    """Of what the spec means, not of how its file is laid out."""
    text = json.dumps(spec.model_dump(mode="json", by_alias=True), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(change: Change) -> dict[str, Any]:
    fields = asdict(change)
    fields.pop("steps", None)
    return fields
