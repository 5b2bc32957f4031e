"""The table of dead letters, one for all pipelines, and how a letter is read into it.

A letter is never poison: whatever its headers say, its bytes are kept. Headers that cannot be read leave their column
at its default and stay in `headers`.
"""

from __future__ import annotations

from ingest.schema.columns import Column
from ingest.schema.extract import LATE_MARK
from ingest.schema.sql import ident, literal
from tidewatch.record import Letter

TABLE = "dead_letters"
DEDUP_WINDOW = 100_000

STRUCTURE = (
    "_partition Int32",
    "_offset Int64",
    "_appended_ms Int64",
    "tw String",
    "key String",
    "raw String",
    "headers Map(String, String)",
)
"""Columns of the body, an Arrow stream: `headers` are all headers of the letter but `tw`, the last of equal names."""

_TEXT = {
    "pipeline": Letter.PIPELINE,
    "origin_topic": Letter.TOPIC,
    "origin_topic_id": Letter.TOPIC_ID,
    "stage": Letter.STAGE,
    "error": Letter.ERROR,
    "field": Letter.FIELD,
    "message": Letter.MESSAGE,
    "signature": Letter.SIGNATURE,
    "loader_version": Letter.LOADER_VERSION,
}
_FEW_VALUES = frozenset(_TEXT) - {"message"}

COLUMNS = (
    Column("_topic", "LowCardinality(String)"),
    Column("_topic_id", "LowCardinality(String)"),
    Column("_partition", "Int32"),
    Column("_offset", "Int64"),
    Column("_appended_at", "DateTime64(3, 'UTC')"),
    Column("_loaded_at", "DateTime64(3, 'UTC')", default="now64(3)"),
    *(Column(name, "LowCardinality(String)" if name in _FEW_VALUES else "String") for name in _TEXT),
    Column("origin_partition", "Nullable(Int32)"),
    Column("origin_offset", "Nullable(Int64)"),
    Column("first_failed_at", "Nullable(DateTime64(6, 'UTC'))"),
    Column("failed_at", "Nullable(DateTime64(6, 'UTC'))"),
    Column("attempt", "UInt32"),
    Column("event_id", "String"),
    Column("project", "LowCardinality(String)"),
    Column("received_at", "Nullable(DateTime64(6, 'UTC'))"),
    Column("traceparent", "String"),
    Column("key", "String"),
    Column("value", "String", codec="ZSTD(3)"),
    Column("headers", "Map(String, String)", codec="ZSTD(3)"),
)
ORDER_BY = ("pipeline", "signature", "_appended_at")
PARTITION_BY = "toDate(_appended_at)"


def letters_insert_sql(database: str) -> str:
    """As extract.insert_sql: to be followed by ` FORMAT ArrowStream`, with parameters `topic`, `topic_id`, `deadline`."""
    late = "toUnixTimestamp(nowInBlock()) > {deadline:Int64}"
    values = {
        "_topic": "{topic:String}",
        "_topic_id": "{topic_id:String}",
        "_partition": "_partition",
        "_offset": f"_offset + throwIf({late}, {literal(LATE_MARK)})",
        "_appended_at": "fromUnixTimestamp64Milli(_appended_ms, 'UTC')",
        **{column: f"headers[{literal(header)}]" for column, header in _TEXT.items()},
        "origin_partition": f"toInt32OrNull(headers[{literal(Letter.PARTITION)}])",
        "origin_offset": f"toInt64OrNull(headers[{literal(Letter.OFFSET)}])",
        "first_failed_at": _time(Letter.FIRST_FAILED_AT),
        "failed_at": _time(Letter.FAILED_AT),
        "attempt": f"toUInt32OrZero(headers[{literal(Letter.ATTEMPT)}])",
        "event_id": "envelope[1]",
        "project": "envelope[4]",
        "received_at": "fromUnixTimestamp64Micro(toInt64OrNull(envelope[2]), 'UTC')",
        "traceparent": "envelope[5]",
        "key": "key",
        "value": "raw",
        "headers": "headers",
    }
    columns = ", ".join(map(ident, values))
    selected = ",\n  ".join(values.values())
    return (
        f"INSERT INTO {ident(database)}.{ident(TABLE)} ({columns})\nSELECT\n  {selected}\n"  # noqa: S608  # names are quoted
        # A header that has not exactly five parts is none of ours: then no part of it is believed.
        f"FROM (SELECT *, splitByChar(';', tw) AS parts, if(length(parts) = 5, parts, []) AS envelope FROM input({literal(', '.join(STRUCTURE))}))"
    )


def _time(header: str) -> str:
    return f"parseDateTime64BestEffortOrNull(headers[{literal(header)}], 6, 'UTC')"
