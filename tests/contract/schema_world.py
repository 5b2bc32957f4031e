"""A database of a spec's tables, and records to put into it as a loader would."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ingest.schema import ddl, extract, letters
from ingest.schema.settings import insert_settings, query_settings
from tidewatch.clickhouse import ClickHouse
from tidewatch.errors import ClickHouseError
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.spec import Spec, parse

FOREVER = 4_000_000_000
APPENDED_MS = 1_767_225_600_000
TOPIC_ID = "dG9waWMtaWQtZm9yLXRlc3Q"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
_tokens = itertools.count()


def make_spec(
    fields: str,
    *,
    unknown: str = "keep",
    aggregates: str = "",
    order_by: str = "",
    name: str = "things",
    extra: str = "",
) -> Spec:
    """`fields` and `aggregates` are YAML flow items, one per line."""
    text = f"""
name: {name}
description: For a test.
owner: tests
source: {{kind: internal, unknown_fields: {unknown}}}
topic: {{name: raw.{name}.v1, partitions: 2}}
dead_letters: {{topic: dlq.{name}.v1}}
schema:
  version: 1
  fields:
{_items(fields, 4)}
table:
  name: raw_{name}
  order_by: [{order_by}]
{extra}"""
    if aggregates:
        text += f"\naggregates:\n{_items(aggregates, 2)}\n"
    return parse(text, "test.yaml")


def _items(lines: str, indent: int) -> str:
    return "\n".join(" " * indent + "- " + line.strip() for line in lines.strip().splitlines())


def envelope(
    event_id: str = "e-1", *, received_us: int = APPENDED_MS * 1000, version: int = 1, project: str = "shop"
) -> bytes:
    return f"{event_id};{received_us};{version};{project};{TRACEPARENT}".encode()


def body(values: Iterable[bytes], headers: Iterable[bytes] | None = None, *, first: int = 0) -> bytes:
    """One Arrow record batch, as the loader frames a block."""
    raws = list(values)
    tws = list(headers) if headers is not None else [b""] * len(raws)
    columns = {
        "_partition": pa.array([0] * len(raws), pa.int32()),
        "_offset": pa.array(range(first, first + len(raws)), pa.int64()),
        "_appended_ms": pa.array([APPENDED_MS + i for i in range(len(raws))], pa.int64()),
        "tw": pa.array(tws, pa.binary()),
        "raw": pa.array(raws, pa.binary()),
    }
    return frame(columns)


def frame(columns: Mapping[str, Any]) -> bytes:
    batch = pa.record_batch(dict(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


@dataclass
class World:
    client: ClickHouse
    database: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = insert_settings(self.client)

    def create(self, spec: Spec) -> None:
        tables = [ddl.raw_table(spec), ddl.dead_letters_table()]
        for aggregate in spec.aggregates:
            types = {row[0]: row[1] for row in self.client.query(ddl.types_sql(spec, aggregate))}
            tables.append(ddl.aggregate_table(spec, aggregate, types))
        for table in tables:
            self.client.command(table.create(self.database))
        for aggregate in spec.aggregates:
            self.client.command(ddl.aggregate_view(spec, aggregate).create(self.database))

    def drop(self, spec: Spec) -> None:
        for aggregate in spec.aggregates:
            self.client.command(f"DROP TABLE {self.database}.{aggregate.name}_view SYNC")
            self.client.command(f"DROP TABLE {self.database}.{aggregate.name} SYNC")
        self.client.command(f"DROP TABLE {self.database}.{spec.table.name} SYNC")

    def insert(self, spec: Spec, data: bytes, *, deadline: int = FOREVER, token: str = "") -> None:
        self.client.insert_body(
            extract.insert_sql(spec, self.database) + " FORMAT ArrowStream",
            data,
            parameters={"topic_id": TOPIC_ID, "deadline": deadline},
            settings=self.settings | {"insert_deduplication_token": token or f"t{next(_tokens)}"},
        )

    def refuses(self, spec: Spec, data: bytes) -> bool:
        """Whether the insert throws for poison; any other error is raised."""
        try:
            self.insert(spec, data)
        except ClickHouseError as error:
            if extract.POISON_MARK not in error.what:
                raise
            return True
        return False

    def poison(self, spec: Spec, data: bytes) -> dict[int, tuple[str, str, str]]:
        """Offset → (error, field, message)."""
        rows = self.client.query_over(
            extract.poison_sql(spec),
            data,
            extract.STRUCTURE,
            name=extract.POISON_TABLE,
            settings=query_settings(self.client),
        )
        found = {offset: (error, column, message) for _, offset, error, column, message in rows}
        assert len(found) == len(rows)
        return found

    def codes(self, spec: Spec, values: Sequence[str | bytes]) -> list[str]:
        """For each value its error, or an empty string; and the insert must agree on each of them."""
        raws = [value.encode() if isinstance(value, str) else value for value in values]
        found = self.poison(spec, body(raws))
        for offset, raw in enumerate(raws):
            assert self.refuses(spec, body([raw])) == (offset in found), (raw, found.get(offset))
        return [found[i][0] if i in found else "" for i in range(len(raws))]

    def rows(self, spec: Spec, columns: str = "*") -> list[dict[str, Any]]:
        return self.client.dicts(
            f"SELECT {columns} FROM {self.database}.{spec.table.name} ORDER BY _partition, _offset"
        )

    def count(self, table: str) -> int:
        return int(self.client.scalar(f"SELECT count() FROM {self.database}.{table}"))

    def insert_letters(self, data: bytes, *, deadline: int = FOREVER, token: str = "") -> None:
        self.client.insert_body(
            letters.letters_insert_sql(self.database) + " FORMAT ArrowStream",
            data,
            parameters={"topic": "dlq.things.v1", "topic_id": TOPIC_ID, "deadline": deadline},
            settings=self.settings | {"insert_deduplication_token": token or f"t{next(_tokens)}"},
        )


def open_world(url: str, database: str) -> World:
    admin = ClickHouse(ClickHouseSettings(url=url))
    admin.command(f"CREATE DATABASE {database}")
    admin.close()
    return World(ClickHouse(ClickHouseSettings(url=url), database=database), database)
