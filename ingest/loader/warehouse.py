"""ClickHouse as the algorithm sees it: inserts under a token, and questions about what is there."""
# Names in statements are quoted or constants, values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingest.ledger.ranges import TABLE as LEDGER_RANGES
from ingest.loader import aggregates
from ingest.loader.blocks import Block, Position
from ingest.loader.effects import Bad, Failed, Gauge, Insert, Landed, Trouble
from ingest.loader.policy import Window
from ingest.loader.statements import Options, Statement
from ingest.schema.extract import LATE_MARK, POISON_MARK
from ingest.schema.sql import ident
from tidewatch.clickhouse import ClickHouse
from tidewatch.clock import Clock
from tidewatch.errors import ClickHouseError, Refused

_GAUGE_SECONDS = 5.0
# Too many parts, memory, queries, or a part that the server would not take just now.
_THROTTLED = frozenset({241, 252, 202, 203, 242, 439})
_VIEW_TEXTS = ("while pushing to view", "while executing materialized view", "materializedview")


def trouble_of(error: ClickHouseError) -> Trouble:
    """Only a record that was refused before anything was written is BAD_RECORD; all else may be written or not."""
    text = error.what.lower()
    if error.retryable:
        return Trouble.UNAVAILABLE
    if any(mark in text for mark in _VIEW_TEXTS):
        return Trouble.VIEW
    if POISON_MARK in text:
        return Trouble.BAD_RECORD
    if LATE_MARK in text:
        return Trouble.DEADLINE
    return Trouble.THROTTLED if error.code in _THROTTLED else Trouble.REFUSED


@dataclass(frozen=True, slots=True)
class Tables:
    """The table of a lane and the targets of its views: all of them forget tokens, each at its own pace."""

    names: tuple[str, ...]
    window: Window


class Warehouse:
    """Safe to use from one thread at a time."""

    def __init__(
        self,
        clickhouse: ClickHouse,
        statement: Statement,
        topic_id: str,
        options: Options,
        clock: Clock,
    ) -> None:
        self._clickhouse = clickhouse
        self._statement = statement
        self._topic_id = topic_id
        self._options = options
        self._clock = clock
        self._gauge: tuple[float, float, int] | None = None
        """(monotonic time, server's seconds, mark) of the last measurement."""
        self.tables = find_tables(clickhouse, statement.table)

    def insert(self, insert: Insert, body: bytes) -> Landed | Failed:
        """Nothing left to insert is an insert that has landed."""
        if not body:
            return Landed()
        settings = {**self._options.insert, "insert_deduplication_token": insert.token}
        parameters = {**self._statement.parameters, "topic_id": self._topic_id, "deadline": insert.deadline}
        try:
            self._clickhouse.insert_body(
                f"{self._statement.insert}\nFORMAT ArrowStream", body, parameters=parameters, settings=settings
            )
        except ClickHouseError as error:
            return _failed(error)
        return Landed()

    def find_bad(self, block: Block) -> list[Bad] | Failed:
        body = block.rows.body(block.skip)
        if self._statement.find_bad is None or not body:
            return []
        try:
            rows = self._clickhouse.query_over(
                self._statement.find_bad,
                body,
                self._statement.structure,
                parameters={"topic_id": self._topic_id},
                settings=self._options.query,
            )
        except ClickHouseError as error:
            return _failed(error)
        return [Bad((int(p), int(o)), error, field, message) for p, o, error, field, message in rows]

    def measure(self, *, fresh: bool) -> Gauge | Failed:
        """The server's clock, run on by ours for a few seconds, and how many blocks the tables have taken."""
        if fresh or self._gauge is None or self._clock.monotonic() - self._gauge[0] > _GAUGE_SECONDS:
            before = self._clock.monotonic()
            try:
                now, mark = self._clickhouse.query(_GAUGE, {"tables": list(self.tables.names)})[0]
            except ClickHouseError as error:
                return _failed(error)
            # Parts that a TTL drops would take their numbers along.
            mark = max(int(mark), self._gauge[2] if self._gauge else 0)
            self._gauge = (before, float(now), mark)
        at, now, mark = self._gauge
        return Gauge(int(now + self._clock.monotonic() - at), mark)

    def missing(self, block: Block) -> tuple[set[Position], int] | Failed:
        missing: set[Position] = set()
        present = 0
        try:
            for partition, offsets in block.rows.positions(block.skip).items():
                there = self._offsets(partition, int(offsets[0]), int(offsets[-1]))
                found = np.isin(offsets, there)
                present += int(found.sum())
                missing |= {(partition, int(offset)) for offset in offsets[~found]}
        except ClickHouseError as error:
            return _failed(error)
        return missing, present

    def have_rows(self, positions: Mapping[int, int]) -> set[int] | Failed:
        """Those partitions of which rows at their offset, or beyond it, are in the table or were recorded."""
        wanted = {"topic_id": self._topic_id, "partitions": list(positions), "offsets": list(positions.values())}
        position = "transform({column}, {{partitions:Array(Int32)}}, {{offsets:Array(Int64)}}, toInt64(0))"
        loaded = (
            f"SELECT DISTINCT _partition FROM {ident(self._statement.table)}"
            " WHERE _topic_id = {topic_id:String} AND _partition IN {partitions:Array(Int32)}"
            f" AND _offset >= {position.format(column='_partition')}"
        )
        recorded = (
            f"SELECT DISTINCT partition FROM {LEDGER_RANGES}"
            " WHERE topic_id = {topic_id:String} AND partition IN {partitions:Array(Int32)}"
            f" AND last >= {position.format(column='partition')}"
        )
        try:
            rows = self._clickhouse.query(loaded, wanted)
            if self._clickhouse.scalar(f"EXISTS TABLE {LEDGER_RANGES}"):
                rows += self._clickhouse.query(recorded, wanted)
        except ClickHouseError as error:
            return _failed(error)
        return {int(partition) for (partition,) in rows}

    def check_aggregates(self, block: Block) -> Failed | None:
        """Failed where an aggregate differs from its rows, in an hour that has rows from the block's ranges."""
        try:
            for view in self._statement.views:
                hours = aggregates.hours_of(self._clickhouse, view, self._topic_id, block.ranges)
                wrong = aggregates.differing(self._clickhouse, view, hours)
                if wrong:
                    first = ", ".join(str(hour) for hour in wrong[:3])
                    message = f"{view.target} differs from {view.source} in {len(wrong)} hours, first {first}"
                    return Failed(Trouble.VIEW, f"{message}; see docs/loader.md, Aggregates")
        except ClickHouseError as error:
            return _failed(error)
        return None

    def _offsets(self, partition: int, first: int, last: int) -> Any:
        query = (
            f"SELECT DISTINCT _offset FROM {ident(self._statement.table)} WHERE _topic_id = {{topic_id:String}}"
            " AND _partition = {partition:Int32} AND _offset BETWEEN {first:Int64} AND {last:Int64}"
        )
        parameters = {"topic_id": self._topic_id, "partition": partition, "first": first, "last": last}
        return np.array([row[0] for row in self._clickhouse.query(query, parameters)], dtype=np.int64)


# Block numbers grow with each block that a table takes; those of a replicated table by partition.
_GAUGE = """
SELECT toUnixTimestamp64Milli(now64(3)) / 1000, toInt64(sum(newest)) FROM (
    SELECT max(max_block_number) AS newest FROM system.parts
    WHERE database = currentDatabase() AND table IN {tables:Array(String)}
    GROUP BY table, if(startsWith(engine, 'Replicated'), partition_id, ''))
"""


def find_tables(clickhouse: ClickHouse, table: str) -> Tables:
    """The table and every target that its views write to. Raises Refused for one that forgets tokens at once."""
    targets = view_targets(clickhouse, table)
    names = (table, *sorted(targets.values()))
    rows = clickhouse.query(
        "SELECT name, engine, engine_full FROM system.tables"
        " WHERE database = currentDatabase() AND name IN {tables:Array(String)}",
        {"tables": list(names)},
    )
    found = {name: (engine, full) for name, engine, full in rows}
    windows: list[Window] = []
    for name in names:
        if name not in found:
            raise Refused(f"there is no table {name}", fix="run `tidewatch spec apply`")
        windows.append(_window(clickhouse, name, *found[name]))
    blocks = [w.blocks for w in windows if w.blocks is not None]
    seconds = [w.seconds for w in windows if w.seconds is not None]
    return Tables(names, Window(min(blocks, default=None), min(seconds, default=None)))


def view_targets(clickhouse: ClickHouse, table: str) -> dict[str, str]:
    """Materialized view of the table → the table it writes to."""
    rows = clickhouse.query(
        "SELECT v.name, v.create_table_query FROM system.tables AS t"
        " ARRAY JOIN t.dependencies_table AS view"
        " INNER JOIN system.tables AS v ON v.name = view AND v.database = currentDatabase()"
        " WHERE t.database = currentDatabase() AND t.name = {table:String} AND v.engine = 'MaterializedView'",
        {"table": table},
    )
    return {name: _target(name, text) for name, text in rows}


def _target(view: str, create: str) -> str:
    words = create.split(" AS ", 1)[0].split()
    if "TO" not in words:
        fix = "give the view a target with TO, which has a deduplication window of its own"
        raise Refused(f"the view {view} keeps its rows in a hidden table", fix=fix)
    return words[words.index("TO") + 1].rpartition(".")[2].strip("`").partition("(")[0].strip("`")


def _window(clickhouse: ClickHouse, name: str, engine: str, full: str) -> Window:
    if engine.startswith("Replicated"):
        settings = _merge_settings(clickhouse, full, "replicated_deduplication_window")
        return Window(settings["replicated_deduplication_window"], settings["replicated_deduplication_window_seconds"])
    blocks = _merge_settings(clickhouse, full, "non_replicated_deduplication_window")[
        "non_replicated_deduplication_window"
    ]
    if not blocks:
        fix = f"ALTER TABLE {name} MODIFY SETTING non_replicated_deduplication_window = 100000"
        raise Refused(f"{name} has no deduplication window: a repeated insert would double its rows", fix=fix)
    return Window(blocks)


def _merge_settings(clickhouse: ClickHouse, full: str, prefix: str) -> dict[str, int]:
    """Of the table where it sets them, else of the server."""
    rows = clickhouse.query(
        "SELECT name, value FROM system.merge_tree_settings WHERE startsWith(name, {prefix:String})", {"prefix": prefix}
    )
    found = {name: int(value) for name, value in rows if value.lstrip("-").isdecimal()}
    for part in full.partition(" SETTINGS ")[2].split(","):
        name, _, value = part.strip().partition(" = ")
        if name in found:
            found[name] = int(value)
    return found


def _failed(error: ClickHouseError) -> Failed:
    return Failed(trouble_of(error), error.what)
