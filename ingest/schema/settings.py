"""The settings that an insert needs so that it is one block, deduplicated in the views too, and read as it was planned.

What each of them prevents was tried: with `deduplicate_blocks_in_dependent_materialized_views` off a retry doubles
the aggregates; with smaller blocks a retry under another batch size doubles rows; with `async_insert` the answer comes
before the views have run. On servers since 26.x a token also covers the chunks of the source, so that a body must be
one Arrow record batch.
"""

from __future__ import annotations

from collections.abc import Mapping

from tidewatch.clickhouse import ClickHouse

Value = int | str

_ROWS = 10_000_000
_BYTES = 10_000_000_000

# What decides how a record is judged; the same for the insert and for the query that finds poison.
_READING: dict[str, Value] = {
    "short_circuit_function_evaluation": "enable",
    "json_type_escape_dots_in_keys": 0,
    "type_json_skip_duplicated_paths": 0,
    "allow_experimental_json_type": 1,
    "enable_json_type": 1,
}
_INSERT: dict[str, Value] = _READING | {
    "async_insert": 0,
    "max_threads": 1,
    "max_insert_threads": 1,
    "input_format_parallel_parsing": 0,
    "max_block_size": _ROWS,
    "max_insert_block_size": _ROWS,
    "min_insert_block_size_rows": _ROWS,
    "min_insert_block_size_bytes": _BYTES,
    "min_insert_block_size_rows_for_materialized_views": _ROWS,
    "min_insert_block_size_bytes_for_materialized_views": _BYTES,
    "max_partitions_per_insert_block": 0,
    "insert_deduplicate": 1,
    "deduplicate_insert": "enable",
    # Refuses an insert without a token rather than insert it twice on a retry.
    "deduplicate_insert_select": "force_enable",
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "materialized_views_ignore_errors": 0,
    "parallel_view_processing": 0,
    "optimize_on_insert": 0,
}


def insert_settings(clickhouse: ClickHouse) -> dict[str, Value]:
    """Those that this server knows; a token goes beside them as `insert_deduplication_token`."""
    return _known(clickhouse, _INSERT)


def query_settings(clickhouse: ClickHouse) -> dict[str, Value]:
    """For poison_sql."""
    return _known(clickhouse, _READING)


def _known(clickhouse: ClickHouse, wanted: Mapping[str, Value]) -> dict[str, Value]:
    rows = clickhouse.query(
        "SELECT name FROM system.settings WHERE name IN {names:Array(String)}", {"names": list(wanted)}
    )
    known = {name for (name,) in rows}
    return {name: value for name, value in wanted.items() if name in known}
