"""CREATE statements for a spec's raw table, its aggregates and our own tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from ingest.schema import letters
from ingest.schema.columns import Column, raw_columns
from ingest.schema.sql import ident, literal
from tidewatch.errors import SpecError
from tidewatch.spec import Aggregate, Spec

HOUR = Column("hour", "DateTime64(0, 'UTC')")


@dataclass(frozen=True, slots=True)
class Table:
    """What a table should be. `order_by`, `partition_by` and `ttl` are expressions as the server spells them."""

    name: str
    columns: tuple[Column, ...]
    engine: str
    order_by: tuple[str, ...]
    partition_by: str = ""
    ttl: str = ""
    dedup_window: int = 0
    settings: tuple[tuple[str, int], ...] = ()
    index_offsets: bool = False

    def create(self, database: str) -> str:
        parts = [column.ddl for column in self.columns]
        if self.index_offsets:
            parts.append("INDEX offsets _offset TYPE minmax GRANULARITY 1")
        lines = [f"CREATE TABLE IF NOT EXISTS {ident(database)}.{ident(self.name)} (", "  " + ",\n  ".join(parts), ")"]
        lines.append(f"ENGINE = {self.engine}")
        if self.partition_by:
            lines.append(f"PARTITION BY {self.partition_by}")
        lines.append(f"ORDER BY ({', '.join(map(ident, self.order_by))})")
        if self.ttl:
            lines.append(f"TTL {self.ttl}")
        options = self.all_settings
        if options:
            lines.append("SETTINGS " + ", ".join(f"{name} = {value}" for name, value in options.items()))
        return "\n".join(lines)

    @property
    def all_settings(self) -> dict[str, int]:
        window = {"non_replicated_deduplication_window": self.dedup_window} if self.dedup_window else {}
        return window | dict(self.settings)


@dataclass(frozen=True, slots=True)
class View:
    """An incremental materialized view that fills `target` from `source`."""

    name: str
    target: str
    source: str
    columns: tuple[tuple[str, str], ...]
    """Name and expression."""
    keys: tuple[str, ...]
    """Those of the columns that it groups by."""

    def select(self, database: str) -> str:
        columns = ", ".join(f"{expression} AS {ident(name)}" for name, expression in self.columns)
        keys = ", ".join(map(ident, self.keys))
        return f"SELECT {columns} FROM {ident(database)}.{ident(self.source)} GROUP BY {keys}"  # noqa: S608  # names are quoted, expressions are the spec's

    def create(self, database: str) -> str:
        name, target = (f"{ident(database)}.{ident(n)}" for n in (self.name, self.target))
        return f"CREATE MATERIALIZED VIEW IF NOT EXISTS {name} TO {target} AS {self.select(database)}"


def ttl(column: str, age: timedelta | None) -> str:
    return f"toDateTime({column}) + toIntervalSecond({int(age.total_seconds())})" if age else ""


def raw_table(spec: Spec) -> Table:
    return Table(
        name=spec.table.name,
        columns=raw_columns(spec),
        engine="MergeTree",
        order_by=spec.table.order_by or ("_project", "_received_at"),
        partition_by="toDate(_received_at)",
        ttl=ttl("_received_at", spec.table.ttl),
        dedup_window=spec.table.dedup_window,
        settings=(("ttl_only_drop_parts", 1),),
        index_offsets=True,
    )


def dead_letters_table() -> Table:
    return Table(
        name=letters.TABLE,
        columns=letters.COLUMNS,
        engine="MergeTree",
        order_by=letters.ORDER_BY,
        partition_by=letters.PARTITION_BY,
        dedup_window=letters.DEDUP_WINDOW,
        index_offsets=True,
    )


def applies_table() -> Table:
    """What `tidewatch spec apply` changed, and when."""
    return Table(
        name="spec_applies",
        columns=(
            Column("applied_at", "DateTime64(3, 'UTC')"),
            Column("pipeline", "LowCardinality(String)"),
            Column("schema_version", "UInt16"),
            Column("spec_hash", "String"),
            Column("changes", "String", codec="ZSTD(3)"),
            Column("applied_by", "String"),
        ),
        engine="MergeTree",
        order_by=("applied_at", "pipeline"),
    )


def own_tables() -> tuple[Table, ...]:
    """Those that belong to no pipeline."""
    return dead_letters_table(), applies_table()


def aggregate_view(spec: Spec, aggregate: Aggregate) -> View:
    """Raises SpecError for a name that would stand twice."""
    names = [HOUR.name, *aggregate.by, *aggregate.measures]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(
                f"aggregate {aggregate.name} has two columns named {name}",
                where=f"pipeline {spec.name}",
                fix="rename the measure; `hour` is the time column of every aggregate",
            )
    measures = {name: _state(expression) for name, expression in aggregate.measures.items()}
    columns = [(HOUR.name, _hour(aggregate.time)), *((name, ident(name)) for name in aggregate.by), *measures.items()]
    return View(
        name=f"{aggregate.name}_view",
        target=aggregate.name,
        source=spec.table.name,
        columns=tuple(columns),
        keys=(HOUR.name, *aggregate.by),
    )


def aggregate_table(spec: Spec, aggregate: Aggregate, types: Mapping[str, str]) -> Table:
    """`types` is what `types_sql` gives for its measures."""
    by_name = {column.name: column.type for column in raw_columns(spec)}
    measures = [Column(name, _stored_type(expression, types[name])) for name, expression in aggregate.measures.items()]
    nullable = any(by_name[name].startswith("Nullable(") for name in aggregate.by) or by_name[
        aggregate.time
    ].startswith("Nullable(")
    hour = Column(HOUR.name, f"Nullable({HOUR.type})") if by_name[aggregate.time].startswith("Nullable(") else HOUR
    return Table(
        name=aggregate.name,
        columns=(hour, *(Column(name, by_name[name]) for name in aggregate.by), *measures),
        engine="AggregatingMergeTree",
        order_by=(HOUR.name, *aggregate.by),
        dedup_window=spec.table.dedup_window,
        settings=(("allow_nullable_key", 1),) if nullable else (),
    )


def types_sql(spec: Spec, aggregate: Aggregate) -> str:
    """A DESCRIBE whose rows begin with (measure, type). The server reads no table for it."""
    structure = ", ".join(f"{ident(column.name)} {column.type}" for column in raw_columns(spec))
    measures = ", ".join(f"{_state(expression)} AS {ident(name)}" for name, expression in aggregate.measures.items())
    return f"DESCRIBE (SELECT {measures} FROM null({literal(structure)}))"  # noqa: S608  # as above


def _hour(column: str) -> str:
    """The start of the hour, also before 1970, where toStartOfHour would wrap."""
    micros = f"toUnixTimestamp64Micro(toDateTime64({ident(column)}, 6, 'UTC'))"
    start = f"{micros} - positiveModulo({micros}, 3600000000)"
    return f"toDateTime64(fromUnixTimestamp64Micro({start}, 'UTC'), 0, 'UTC')"


def _function(measure: str) -> str:
    return measure.partition("(")[0].strip()


def _state(measure: str) -> str:
    """A count, a sum, a minimum and a maximum merge as they are; a set of distinct values needs its state."""
    name = _function(measure)
    return "uniqState" + measure.strip().removeprefix(name) if name == "uniq" else measure


def _stored_type(measure: str, found: str) -> str:
    merge = {"count": "sum", "countIf": "sum", "sum": "sum", "sumIf": "sum", "min": "min", "max": "max"}
    name = _function(measure)
    return f"SimpleAggregateFunction({merge[name]}, {found})" if name in merge else found
