"""Before anything is loaded: does this server really drop a repeated insert, in the table and in a view of it?

Runs the loader's very statement, twice, on scratch tables that are removed again. Settings change their names and
their defaults between versions of ClickHouse, and a wrong one doubles rows in silence.
"""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ingest.loader.rows import EVENT_SCHEMA, Rows
from ingest.loader.statements import Options
from ingest.schema import ddl
from ingest.schema.extract import insert_sql
from ingest.schema.sql import ident
from tidewatch.clickhouse import ClickHouse
from tidewatch.errors import ClickHouseError, Refused
from tidewatch.spec import Field, Spec

# Names are quoted.
# ruff: noqa: S608

_LOOSE: dict[str, Any] = {"min": None, "max": None, "max_length": None, "values": None, "pattern": None}
_SAMPLES: dict[str, Any] = {
    "string": "probe",
    "float64": 1.5,
    "bool": True,
    "timestamp": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "uuid": "018f0000-0000-7000-8000-000000000000",
    "json": {"probe": 1},
}


def probe(clickhouse: ClickHouse, spec: Spec, options: Options) -> None:
    """Raises Refused when anything was doubled, or lost."""
    suffix = uuid.uuid4().hex[:12]
    table, target, view = (f"tidewatch_probe_{part}_{suffix}" for part in ("raw", "target", "view"))
    scratch = _scratch(spec, table)
    try:
        clickhouse.command(ddl.raw_table(scratch).create(clickhouse.database))
        window = f"non_replicated_deduplication_window = {spec.table.dedup_window}"
        clickhouse.command(
            f"CREATE TABLE {ident(target)} (kind UInt8, n UInt64) ENGINE = SummingMergeTree ORDER BY kind SETTINGS {window}"
        )
        clickhouse.command(
            f"CREATE MATERIALIZED VIEW {ident(view)} TO {ident(target)} AS"
            f" SELECT toUInt8(0) AS kind, count() AS n FROM {ident(table)} GROUP BY kind"
        )
        counts = [_insert(clickhouse, scratch, options, table, target) for _ in range(2)]
    finally:
        with suppress(ClickHouseError):
            for name in (view, target, table):
                clickhouse.command(f"DROP TABLE IF EXISTS {ident(name)}")
    if counts != [(2, 2), (2, 2)]:
        raise Refused(
            f"this ClickHouse does not load exactly once: rows and rows seen by a view were {counts[0]} after an insert"
            f" and {counts[1]} after the same one again, and should be (2, 2) both times",
            fix="see docs/loader.md, Probe; do not load until it passes",
        )


def _insert(clickhouse: ClickHouse, spec: Spec, options: Options, table: str, target: str) -> tuple[int, int]:
    settings = {**options.insert, "insert_deduplication_token": f"probe:{table}"}
    deadline = int(clickhouse.scalar("SELECT toUnixTimestamp(now())")) + 60
    clickhouse.insert_body(
        f"{insert_sql(spec, clickhouse.database)}\nFORMAT ArrowStream",
        _body(spec),
        parameters={"topic_id": "probe", "deadline": deadline},
        settings=settings,
    )
    rows = int(clickhouse.scalar(f"SELECT count() FROM {ident(table)}"))
    seen = int(clickhouse.scalar(f"SELECT sum(n) FROM {ident(target)}"))
    return rows, seen


def _scratch(spec: Spec, table: str) -> Spec:
    """The same fields without their constraints, so that a made-up event passes."""
    fields = tuple(field.model_copy(update=_LOOSE) for field in spec.schema_.fields)
    changes = {
        "schema_": spec.schema_.model_copy(update={"fields": fields}),
        "table": spec.table.model_copy(update={"name": table}),
        "aggregates": (),
    }
    return spec.model_copy(update=changes)


def _body(spec: Spec) -> bytes:
    event = {field.name: _sample(field) for field in spec.schema_.fields if field.required}
    raw = json.dumps(event).encode()
    now = int(datetime.now(UTC).timestamp() * 1000)
    columns = [
        pa.array([0, 0], pa.int32()),
        pa.array([0, 1], pa.int64()),
        pa.array([now, now], pa.int64()),
        pa.array([b"", b""], pa.binary()),
        pa.array([raw, raw], pa.binary()),
    ]
    return Rows((pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA),)).body()


def _sample(field: Field) -> Any:
    kind = field.kind
    if kind.is_integer:
        return 1
    if kind.item:
        return []
    return "1" if kind.precision else _SAMPLES[field.type]
