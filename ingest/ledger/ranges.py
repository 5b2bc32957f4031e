"""Range records: what a loader did with one contiguous range of one partition, kept longer than the topic itself.

A loader writes one record per partition of a block after the block's insert succeeded. Records of a partition are
disjoint and adjacent (`first` is the previous `last + 1`), so that an unbroken chain of them proves a window whose
topic records retention has long removed: the rows are counted again and held against `loaded`.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from tidewatch.clickhouse import ClickHouse
from tidewatch.errors import ClickHouseError
from tidewatch.telemetry.catalogue.ledger import RANGES_DROPPED, RANGES_WAITING, RANGES_WRITTEN
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.metrics import Registry

TABLE = "ledger_ranges"

# Writing a block's record again replaces it: the key is the range itself, the version is when it was written.
DDL = """
CREATE TABLE IF NOT EXISTS ledger_ranges (
    topic LowCardinality(String),
    topic_id LowCardinality(String),
    `partition` Int32,
    `first` Int64,
    `last` Int64,
    seen UInt64,
    loaded UInt64,
    dead UInt64,
    expired UInt64,
    min_appended_ms Int64,
    max_appended_ms Int64,
    block String,
    loader_version LowCardinality(String),
    written_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(written_at)
ORDER BY (topic_id, `partition`, `first`, `last`)
TTL toDateTime(written_at) + INTERVAL 400 DAY
"""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RangeRecord:
    """What became of the offsets `first..last` (both included) of one partition.

    `seen` counts the records that the consumer delivered, so gaps in offsets (control records, compaction) are legal;
    `seen == loaded + dead`. `expired` counts offsets of a recorded intent that retention or compaction had removed
    before they could be loaded; the append times of a range that is all gone are 0. `block` is the hash of the
    insert's deduplication token.
    """

    topic: str
    topic_id: str
    partition: int
    first: int
    last: int
    seen: int
    loaded: int
    dead: int
    expired: int
    min_appended_ms: int
    max_appended_ms: int
    block: str
    loader_version: str
    written_at: datetime

    def __post_init__(self) -> None:
        if self.last < self.first or self.seen != self.loaded + self.dead:
            raise ValueError(f"range record does not add up: {self}")


COLUMNS = tuple(field.name for field in fields(RangeRecord))
_INSERT = "INSERT INTO ledger_ranges FORMAT JSONEachRow"
_SELECT = """
SELECT topic, topic_id, `partition`, `first`, `last`, seen, loaded, dead, expired, min_appended_ms, max_appended_ms,
    block, loader_version, written_at
FROM ledger_ranges FINAL
WHERE topic_id = {topic_id:String} AND min_appended_ms < {until_ms:Int64}
    AND (max_appended_ms >= {since_ms:Int64} OR max_appended_ms = 0)
ORDER BY `partition`, `first`
"""
_LAST_BEFORE = """
SELECT `partition`, max(`last`) FROM ledger_ranges
WHERE topic_id = {topic_id:String} AND max_appended_ms BETWEEN 1 AND {since_ms:Int64} - 1 GROUP BY `partition`
"""
_REACHED = """
SELECT `partition`, max(`last`) + 1 FROM ledger_ranges WHERE topic_id = {topic_id:String} GROUP BY `partition`
"""
_FOREVER_MS = 1 << 62
_UNKNOWN_TABLE = 60


def write_ranges(clickhouse: ClickHouse, records: Iterable[RangeRecord]) -> None:
    """Write `records` at once; the same records again change nothing."""
    body = "\n".join(json.dumps(_row(record)) for record in records).encode()
    if body:
        clickhouse.insert_body(_INSERT, body, settings={"async_insert": 0})


def read_ranges(
    clickhouse: ClickHouse, topic_id: str, since_ms: int = 0, until_ms: int = _FOREVER_MS
) -> list[RangeRecord]:
    """Records of ranges that overlap the window of append time, by partition and offset."""
    rows = _query(clickhouse, _SELECT, {"topic_id": topic_id, "since_ms": since_ms, "until_ms": until_ms})
    return [RangeRecord(**_aware(dict(zip(COLUMNS, row, strict=True)))) for row in rows]


def last_before(clickhouse: ClickHouse, topic_id: str, since_ms: int) -> dict[int, int]:
    """By partition, the last offset of the ranges that were appended before `since_ms`."""
    return dict(_query(clickhouse, _LAST_BEFORE, {"topic_id": topic_id, "since_ms": since_ms}))


def reached(clickhouse: ClickHouse, topic_id: str) -> dict[int, int]:
    """By partition, the offset that the loader had committed at least: a record is written after its commit only."""
    return dict(_query(clickhouse, _REACHED, {"topic_id": topic_id}))


def _query(clickhouse: ClickHouse, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    """No loader has written yet where there is no table: then there are no records."""
    try:
        return clickhouse.query(sql, parameters)
    except ClickHouseError as error:
        if error.code != _UNKNOWN_TABLE:
            raise
        return []


def _row(record: RangeRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in COLUMNS}
    row["written_at"] = record.written_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return row


def _aware(row: dict[str, Any]) -> dict[str, Any]:
    written: datetime = row["written_at"]
    return row | {"written_at": written if written.tzinfo else written.replace(tzinfo=UTC)}


class RangeWriter:
    """Writes range records from its own thread, about once a second; never blocks or fails its caller.

    A record that cannot be written is tried again for as long as there is room; beyond `room` the oldest are dropped,
    counted in `dropped` and logged: their ranges stay provable only while the topic holds them.
    """

    def __init__(self, clickhouse: ClickHouse, registry: Registry, *, every: float = 1.0, room: int = 100_000) -> None:
        self._clickhouse = clickhouse
        self._count_written = registry.counter(RANGES_WRITTEN)
        self._count_dropped = registry.counter(RANGES_DROPPED)
        self._count_waiting = registry.gauge(RANGES_WAITING)
        self._every = every
        self._room = room
        self._waiting: deque[RangeRecord] = deque()
        self._changed = threading.Condition()
        self._writing = False
        self._hurry = False
        self._closed = False
        self._table_made = False
        self.written = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="ledger-ranges", daemon=True)
        self._thread.start()

    def append(self, records: Iterable[RangeRecord]) -> None:
        with self._changed:
            self._waiting.extend(records)
            self._drop_surplus()
            self._count_waiting.set(len(self._waiting))
            self._changed.notify_all()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything appended so far is written; False when `timeout` seconds were not enough."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._waiting and not self._writing, timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Flush, then stop; what is still unwritten after `timeout` is dropped, and False is returned."""
        done = self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return done

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._changed.wait_for(lambda: self._hurry or self._closed, self._every)
                if self._closed:
                    return
                batch = list(self._waiting)
                self._waiting.clear()
                self._hurry = False
                self._writing = True
            written = self._write(batch)
            with self._changed:
                self._writing = False
                if not written:
                    self._waiting.extendleft(reversed(batch))
                    self._drop_surplus()
                self._count_waiting.set(len(self._waiting))
                self._changed.notify_all()

    def _write(self, batch: list[RangeRecord]) -> bool:
        try:
            if not self._table_made:
                self._clickhouse.command(DDL)
                self._table_made = True
            write_ranges(self._clickhouse, batch)
        except Exception as error:  # whatever it is, the lane that loads events must not feel it
            log.warning("ledger.ranges_not_written", records=len(batch), error=str(error), retry_in_s=self._every)
            return False
        self.written += len(batch)
        self._count_written.inc(len(batch))
        return True

    def _drop_surplus(self) -> None:
        surplus = len(self._waiting) - self._room
        if surplus > 0:
            for _ in range(surplus):
                self._waiting.popleft()
            self.dropped += surplus
            self._count_dropped.inc(surplus)
            log.error("ledger.ranges_dropped", records=surplus, room=self._room)
