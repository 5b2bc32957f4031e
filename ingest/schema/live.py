"""What ClickHouse has now."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidewatch.clickhouse import ClickHouse

_SETTING = re.compile(r"(\w+) = (\d+)")
_TTL = re.compile(r"\bTTL (.+?)(?: SETTINGS |$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LiveTable:
    name: str
    engine: str
    columns: Mapping[str, str]
    """Name → type, in the table's order."""
    order_by: str
    partition_by: str
    ttl: str
    settings: Mapping[str, int]
    select: str
    """Of a view, on one line."""


def read_tables(clickhouse: ClickHouse, database: str, names: Iterable[str]) -> dict[str, LiveTable]:
    """Those of `names` that exist."""
    wanted = {"database": database, "names": sorted(set(names))}
    where = "WHERE database = {database:String} AND name IN {names:Array(String)}"
    found = clickhouse.dicts(
        "SELECT name, engine, engine_full, sorting_key, partition_key, "  # noqa: S608  # constants only
        f"if(as_select = '', '', formatQuerySingleLine(as_select)) AS select FROM system.tables {where}",
        wanted,
    )
    columns: dict[str, dict[str, str]] = {}
    rows = clickhouse.query(
        "SELECT table, name, type FROM system.columns "
        "WHERE database = {database:String} AND table IN {names:Array(String)} ORDER BY table, position",
        wanted,
    )
    for table, name, kind in rows:
        columns.setdefault(table, {})[name] = kind
    return {row["name"]: _live(row, columns.get(row["name"], {})) for row in found}


def _live(row: Mapping[str, str], columns: Mapping[str, str]) -> LiveTable:
    full = row["engine_full"]
    _, _, settings = full.partition(" SETTINGS ")
    ttl = _TTL.search(full)
    return LiveTable(
        name=row["name"],
        engine=row["engine"],
        columns=columns,
        order_by=row["sorting_key"],
        partition_by=row["partition_key"],
        ttl=ttl[1].strip() if ttl else "",
        settings={name: int(value) for name, value in _SETTING.findall(settings)},
        select=row["select"],
    )


def format_select(clickhouse: ClickHouse, select: str) -> str:
    """As the server spells it."""
    return str(clickhouse.scalar("SELECT formatQuerySingleLine({select:String})", {"select": select}))
