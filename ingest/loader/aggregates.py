"""Whether an aggregate equals a recount of its raw rows, and how to make it so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ingest.loader.blocks import Ranges
from ingest.schema.ddl import HOUR, View
from ingest.schema.sql import ident
from tidewatch.clickhouse import ClickHouse

# Names are quoted, expressions are the spec's own; values are parameters.
# ruff: noqa: S608


def hours_of(clickhouse: ClickHouse, view: View, topic_id: str, ranges: Ranges) -> list[datetime]:
    """Hours of the aggregate that rows from these ranges count in."""
    expression = dict(view.columns)[HOUR.name]
    rows = clickhouse.query(
        f"SELECT DISTINCT {expression} FROM {ident(view.source)} WHERE _topic_id = {{topic_id:String}}"
        " AND arrayExists((p, a, b) -> _partition = p AND _offset BETWEEN a AND b,"
        " {partitions:Array(Int32)}, {firsts:Array(Int64)}, {lasts:Array(Int64)})"
        " AND _offset BETWEEN {low:Int64} AND {high:Int64}",
        {
            "topic_id": topic_id,
            "partitions": [r.partition for r in ranges],
            "firsts": [r.first for r in ranges],
            "lasts": [r.last for r in ranges],
            "low": min(r.first for r in ranges),
            "high": max(r.last for r in ranges),
        },
    )
    return [hour for (hour,) in rows]


def differing(clickhouse: ClickHouse, view: View, hours: Sequence[datetime] | None = None) -> list[datetime]:
    """Hours, of these or of all, in which the aggregate is not what a recount gives."""
    if hours is not None and not hours:
        return []
    stored, counted = _stored(view, hours), _counted(view, clickhouse.database, hours)
    query = (
        f"SELECT DISTINCT hour FROM (({stored}) EXCEPT DISTINCT ({counted})"
        f" UNION ALL (({counted}) EXCEPT DISTINCT ({stored}))) ORDER BY hour"
    )
    rows = clickhouse.query(query, _parameters(hours))
    return [hour for (hour,) in rows]


def rebuild(clickhouse: ClickHouse, view: View, hours: Sequence[datetime]) -> None:
    """Count these hours again. Only while nothing is being inserted: what comes between is lost or counted twice."""
    within = "hour IN {hours:Array(DateTime('UTC'))}"
    clickhouse.command(
        f"ALTER TABLE {ident(view.target)} DELETE WHERE {within}", _parameters(hours), {"mutations_sync": 2}
    )
    select = view.select(clickhouse.database)
    clickhouse.command(f"INSERT INTO {ident(view.target)} SELECT * FROM ({select}) WHERE {within}", _parameters(hours))


def _stored(view: View, hours: Sequence[datetime] | None) -> str:
    columns = ", ".join(_merged(name, expression, view) for name, expression in view.columns)
    keys = ", ".join(map(ident, view.keys))
    return f"SELECT {columns} FROM {ident(view.target)} AS s {_within(hours, 's.hour')} GROUP BY {keys}"


def _counted(view: View, database: str, hours: Sequence[datetime] | None) -> str:
    columns = ", ".join(_final(name, expression) for name, expression in view.columns)
    return f"SELECT {columns} FROM ({view.select(database)}) AS c {_within(hours, 'c.hour')}"


def _within(hours: Sequence[datetime] | None, column: str) -> str:
    return "" if hours is None else f"WHERE {column} IN {{hours:Array(DateTime('UTC'))}}"


def _merged(name: str, expression: str, view: View) -> str:
    if name in view.keys:
        return ident(name)
    function = expression.partition("(")[0].strip()
    merge = {"min": "min", "max": "max", "uniqState": "uniqMerge"}.get(function, "sum")
    return f"{merge}(s.{ident(name)}) AS {ident(name)}"


def _final(name: str, expression: str) -> str:
    return (
        f"finalizeAggregation(c.{ident(name)}) AS {ident(name)}" if expression.startswith("uniqState") else ident(name)
    )


def _parameters(hours: Sequence[datetime] | None) -> dict[str, object]:
    return {"hours": list(hours)} if hours is not None else {}
