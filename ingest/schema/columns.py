"""The columns of a raw table.

Three kinds of companion columns keep what a typed column alone would lose:

- `_json_<field>`: the exact value of a `json` field, empty when the field was absent. ClickHouse's JSON type drops
  nulls and empty objects and reads dots in keys as nesting, so it serves queries and this column is the record.
- `_has_<field>`: whether an optional array was there, because an array column holds no NULL.
- `_raw`: all of the event's bytes, filled only where it holds an integer beyond 64 bits inside JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingest.schema.sql import ident
from tidewatch.spec import Field, Spec


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    """As `system.columns` spells it."""
    default: str = ""
    codec: str = ""

    @property
    def ddl(self) -> str:
        default = f" DEFAULT {self.default}" if self.default else ""
        codec = f" CODEC({self.codec})" if self.codec else ""
        return f"{ident(self.name)} {self.type}{default}{codec}"


ENVELOPE = (
    Column("_topic_id", "LowCardinality(String)"),
    Column("_partition", "Int32"),
    Column("_offset", "Int64"),
    Column("_event_id", "String"),
    Column("_project", "LowCardinality(String)"),
    Column("_schema", "UInt16"),
    Column("_received_at", "DateTime64(6, 'UTC')"),
    Column("_loaded_at", "DateTime64(3, 'UTC')", default="now64(3)"),
)
EXACT = "ZSTD(3)"
EXTRA = Column("_extra", "Map(String, String)")
RAW = Column("_raw", "String", codec=EXACT)


def keeps_unknown(spec: Spec) -> bool:
    return spec.source.unknown_fields == "keep"


def keeps_raw(spec: Spec) -> bool:
    """Whether JSON stands in a column of this pipeline, so that an integer may not fit it."""
    return keeps_unknown(spec) or any(field.type == "json" for field in spec.schema_.fields)


def field_columns(field: Field) -> tuple[Column, ...]:
    """The column of the field and its companion."""
    kind = field.kind
    if kind.json == "object":
        return Column(field.name, kind.clickhouse), Column(f"_json_{field.name}", "String", codec=EXACT)
    if kind.json == "array":
        column = Column(field.name, kind.clickhouse)
        return (column,) if field.required else (column, Column(f"_has_{field.name}", "Bool"))
    return (Column(field.name, kind.clickhouse if field.required else f"Nullable({kind.clickhouse})"),)


def raw_columns(spec: Spec) -> tuple[Column, ...]:
    """In the order of the table."""
    fields = [column for field in spec.schema_.fields for column in field_columns(field)]
    extra = [EXTRA] if keeps_unknown(spec) else []
    raw = [RAW] if keeps_raw(spec) else []
    return (*ENVELOPE, *fields, *extra, *raw)
