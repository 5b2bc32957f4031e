"""One insert, measured and traced, and what is written down about it afterwards. `insert` is the worker's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

from opentelemetry.trace import SpanKind, StatusCode

from ingest.ledger.ranges import RangeRecord, RangeWriter
from ingest.loader.blocks import Block, Identity
from ingest.loader.effects import Closing, Failed, Insert, Landed
from ingest.loader.gauges import Gauges
from ingest.loader.rows import Extent
from ingest.loader.warehouse import Warehouse
from tidewatch import __version__
from tidewatch.clock import Clock
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.traces import Tracing, parse_traceparent

_LINKS = 32
_NOTHING = Extent(0, 0, 0, 0)

log = get_logger(__name__)


class Inserter:
    def __init__(
        self,
        *,
        identity: Identity,
        topic: str,
        warehouse: Warehouse,
        ranges: RangeWriter,
        gauges: Gauges,
        tracing: Tracing,
        clock: Clock,
    ) -> None:
        self._identity = identity
        self._topic = topic
        self._warehouse = warehouse
        self._ranges = ranges
        self._gauges = gauges
        self._tracing = tracing
        self._clock = clock
        self._lost: dict[tuple[int, int], int] = {}
        """(partition, first offset of a range) → offsets of it that retention removed before they were read."""

    def insert(self, insert: Insert) -> Landed | Failed:
        started = self._clock.monotonic()
        began = self._clock.now()
        body = insert.block.rows.body(insert.block.skip)
        built = self._clock.monotonic()
        self._gauges.build_seconds.observe(built - started)
        answer = self._warehouse.insert(insert, body)
        took = self._clock.monotonic() - built
        if isinstance(answer, Landed):
            self._count(insert.block, len(body), took)
        self._trace(insert, began, answer)
        return answer

    def count_lost(self, block: Block, lost: Mapping[int, int]) -> None:
        for r in block.ranges:
            if lost.get(r.partition):
                self._lost[r.partition, r.first] = lost[r.partition]

    def closed(self, closes: Sequence[Closing]) -> None:
        """These ranges are final: hand their records to the ledger's writer, which never blocks."""
        extents: dict[int, Mapping[int, Extent]] = {}
        for closing in closes:
            if id(closing.block) not in extents:
                extents[id(closing.block)] = closing.block.rows.extents()
        self._ranges.append(self._record(closing, extents[id(closing.block)]) for closing in closes)

    def _record(self, closing: Closing, extents: Mapping[int, Extent]) -> RangeRecord:
        r, block = closing.range, closing.block
        extent = extents.get(r.partition, _NOTHING)
        dead = min(closing.letters, extent.records)
        return RangeRecord(
            topic=self._topic,
            topic_id=self._identity.topic_id,
            partition=r.partition,
            first=r.first,
            last=r.last,
            seen=extent.records,
            loaded=extent.records - dead,
            dead=dead,
            expired=block.gone.get(r.partition, 0) + self._lost.pop((r.partition, r.first), 0),
            min_appended_ms=extent.min_appended_ms,
            max_appended_ms=extent.max_appended_ms,
            block=hashlib.sha256(self._identity.token(block.ranges).encode()).hexdigest()[:16],
            loader_version=__version__,
            written_at=self._clock.now(),
        )

    def _count(self, block: Block, size: int, seconds: float) -> None:
        rows = len(block.rows) - len(block.skip)
        self._gauges.rows.inc(rows)
        self._gauges.bytes.inc(size)
        self._gauges.blocks.inc()
        self._gauges.batch_rows.observe(rows)
        self._gauges.insert_seconds.observe(seconds)
        now = self._clock.now().timestamp()
        self._gauges.last_insert.set(now)
        received = block.rows.received_us()
        for moment in {min(received), max(received)} if received else ():
            self._gauges.age.observe(max(0.0, now - moment / 1e6))
        log.debug("loader.landed", topic=self._topic, rows=rows, bytes=size, s=round(seconds, 3))

    def _trace(self, insert: Insert, began: datetime, answer: Landed | Failed) -> None:
        """A span in the first sampled request's trace, linked to the others'. Nothing when no record is sampled."""
        found = [parse_traceparent(text) for text in insert.block.rows.sampled(_LINKS)]
        contexts = [context for context in found if context is not None and context.sampled]
        if not contexts:
            return
        span = self._tracing.tracer.start_span(
            f"insert {self._topic}",
            context=contexts[0].parent,
            kind=SpanKind.CONSUMER,
            links=[context.link for context in contexts[1:]],
            attributes={
                "messaging.system": "kafka",
                "messaging.destination.name": self._topic,
                "messaging.batch.message_count": len(insert.block.rows),
                "db.system": "clickhouse",
                "tidewatch.block": self._identity.token(insert.block.ranges)[:512],
            },
            start_time=int(began.timestamp() * 1e9),
        )
        if isinstance(answer, Failed):
            span.set_status(StatusCode.ERROR, answer.message)
        span.end()
