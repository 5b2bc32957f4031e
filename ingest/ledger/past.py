"""What retention has removed from the topic: rows counted again, and held against the range records.

Where an unbroken chain of range records covers the offsets, `loaded` and `dead` say how many rows and letters each
range must have. Offsets without a range record are still proved when each of them has exactly one row or letter.
Anything else cannot be shown any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ingest.ledger.ranges import RangeRecord
from ingest.ledger.report import Kind, PipelineReport, Stretch
from ingest.ledger.spans import Span, runs
from ingest.ledger.tally import Subject
from ingest.ledger.warehouse import NOTHING, Counts, Held, Warehouse

_CANDIDATES_SHOWN = 20
# Their beginnings are sent with the query, some 70 kB.
_RANGES_AT_ONCE = 5000


class Hole(NamedTuple):
    first: int
    stop: int


@dataclass(slots=True)
class Past:
    """Of one partition: the ranges to count again, and the offsets between them that no record tells of."""

    partition: int
    committed: int | None = None
    segments: list[list[RangeRecord]] = field(default_factory=list)
    """Each an unbroken chain."""
    holes: list[Hole] = field(default_factory=list)


def arrange(stretch: Stretch, ranges: Sequence[RangeRecord], lower: int, upper: int) -> Past:
    """Cover `lower <= offset < upper`. Ranges that begin inside of another (never written by us) are left out."""
    past = Past(stretch.partition, stretch.committed)
    at = lower
    for record in sorted(ranges, key=lambda r: (r.first, -r.last)):
        if record.first < at and past.segments:
            continue
        if record.first > at:
            past.holes.append(Hole(at, record.first))
        if past.segments and past.segments[-1][-1].last + 1 == record.first:
            past.segments[-1].append(record)
        else:
            past.segments.append([record])
        at = record.last + 1
    if at < upper:
        past.holes.append(Hole(at, upper))
    return past


class Recount:
    """Adds what it finds to `report`."""

    def __init__(self, subject: Subject, warehouse: Warehouse, report: PipelineReport) -> None:
        self._subject = subject
        self._warehouse = warehouse
        self._report = report

    def run(self, past: Past) -> None:
        for segment in past.segments:
            self._segment(past.partition, segment)
        for hole in past.holes:
            self._hole(past, hole)

    def _segment(self, partition: int, segment: list[RangeRecord]) -> None:
        # Each range by itself: a row that moved from one into the other would not show in a sum.
        for start in range(0, len(segment), _RANGES_AT_ONCE):
            ranges = segment[start : start + _RANGES_AT_ONCE]
            found = self._count(partition, [record.first for record in ranges], ranges[-1].last + 1)
            for record in ranges:
                if found.get(record.first, NOTHING) == Counts(record.loaded, record.dead, record.seen):
                    self._add(record)
                else:
                    self._explain(partition, record)

    def _explain(self, partition: int, record: RangeRecord) -> None:
        subject = self._subject
        held = self._warehouse.positions(
            subject.table, subject.topic_id, partition, record.first, record.last + 1, letters=subject.has_letters
        )
        expected = record.loaded + record.dead
        self._add(record)
        count = len(held.offsets)
        self._report.terms.lost += max(0, expected - count)
        self._report.terms.loaded += len(held.rows) - record.loaded
        self._report.terms.dead_lettered["loader"] += count - len(held.rows) - record.dead
        self._doubles(partition, held)
        if count < expected:
            self._gap(partition, record, held.offsets, expected - count)
        elif count > expected:
            detail = f"the loader saw {record.seen} records in offsets {record.first} to {record.last}"
            span = Span(partition, record.first, record.last, count - expected, 0)
            self._report.find("unknown_row", span, detail)

    def _gap(self, partition: int, record: RangeRecord, held: set[int], missing: int) -> None:
        candidates = [offset for offset in range(record.first, record.last + 1) if offset not in held]
        if len(candidates) == missing:
            for run in runs(partition, candidates):
                self._report.find("gap", run, "the range record says it was loaded")
            return
        shown = ", ".join(map(str, candidates[:_CANDIDATES_SHOWN]))
        more = ", …" if len(candidates) > _CANDIDATES_SHOWN else ""
        detail = f"{missing} of offsets {shown}{more}; the others never held a record"
        self._report.find("gap", Span(partition, candidates[0], candidates[-1], missing, 0), detail)

    def _doubles(self, partition: int, held: Held) -> None:
        kinds: list[tuple[Kind, list[int]]] = [
            ("double", [offset for offset, rows in held.rows.items() if rows > 1]),
            ("double_letter", [offset for offset, letters in held.letters.items() if len(letters) > 1]),
            ("loaded_and_dead", list(held.rows.keys() & held.letters.keys())),
        ]
        for kind, offsets in kinds:
            for run in runs(partition, offsets):
                self._report.find(kind, run)

    def _hole(self, past: Past, hole: Hole) -> None:
        counts = self._count(past.partition, [hole.first], hole.stop).get(hole.first, NOTHING)
        if counts.fill(hole.stop - hole.first):
            self._report.terms.accepted += counts.offsets
            self._report.terms.loaded += counts.rows
            self._report.terms.dead_lettered["loader"] += counts.letters
            return
        why = "retention has removed these records, and no range record tells of them"
        if past.committed is not None and hole.first >= past.committed:
            why = "retention has removed these records before the loader had read them"
        self._report.unprovable(why, past.partition, hole.first, hole.stop - 1)

    def _count(self, partition: int, starts: Sequence[int], stop: int) -> dict[int, Counts]:
        subject = self._subject
        return self._warehouse.buckets(
            subject.table, subject.topic_id, partition, starts, stop, letters=subject.has_letters
        )

    def _add(self, record: RangeRecord) -> None:
        terms = self._report.terms
        terms.accepted += record.seen
        terms.loaded += record.loaded
        terms.dead_lettered["loader"] += record.dead
        terms.expired += record.expired
        terms.control += record.last - record.first + 1 - record.seen - record.expired
