"""Holds the log of one topic against the warehouse, chunk by chunk of offsets.

A chunk whose every offset has exactly one row or letter is balanced by arithmetic. Only the others are read from the
log: those with control records, those in flight, and those where something is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import Message

from ingest.ledger.report import Stretch
from ingest.ledger.spans import Spans
from ingest.ledger.warehouse import CHUNK, NOTHING, Counts, Place, Warehouse
from tidewatch.kafka.reading import LogReader

# Beyond this many offsets in flight, they are counted by arithmetic (as offsets, not as records).
READ_IN_FLIGHT = 2_000_000

KnownLetters = Mapping[int, Mapping[int, set[Place]]]
"""{partition: {offset: letters}} that Kafka holds and the warehouse does not."""
Progress = Callable[[str], None]


@dataclass(slots=True)
class Tally:
    """What became of the records of the stretches. Spans are by partition and offset."""

    records: int = 0
    loaded: int = 0
    dead: int = 0
    control: int = 0
    pending: int = 0
    """Records, except for those of `unread`."""
    unread: int = 0
    """Offsets in flight that were not read, because they are so many."""
    oldest_pending_ms: int | None = None
    gaps: Spans = field(default_factory=Spans)
    doubles: Spans = field(default_factory=Spans)
    double_letters: Spans = field(default_factory=Spans)
    loaded_and_dead: Spans = field(default_factory=Spans)
    unknown: Spans = field(default_factory=Spans)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tallied: a topic and the table that it is loaded into."""

    topic: str
    topic_id: str
    table: str
    has_letters: bool
    """Whether its records may be dead-lettered; those of a dead-letter topic are not."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a tally looks. `progress` hears of what takes long."""

    warehouse: Warehouse
    reader: LogReader
    progress: Progress = lambda _: None


def _ignore(_: Message) -> None:
    pass


class Tallying:
    """One run over one topic. `on_missing` sees every record that the warehouse does not hold, lost or in flight."""

    def __init__(
        self,
        subject: Subject,
        sources: Reading,
        *,
        known: KnownLetters | None = None,
        on_missing: Callable[[Message], None] = _ignore,
    ) -> None:
        self._subject = subject
        self._warehouse = sources.warehouse
        self._reader = sources.reader
        self._progress = sources.progress
        self._known = known or {}
        self._on_missing = on_missing
        self._tally = Tally()
        self._within_run = False

    def run(self, stretches: Sequence[Stretch]) -> Tally:
        """Raises RecordsGone when retention overtakes the run."""
        subject = self._subject
        counts = self._warehouse.chunks(subject.table, subject.topic_id, stretches, letters=subject.has_letters)
        for stretch in stretches:
            for chunk in range(stretch.first // CHUNK, -(-stretch.stop // CHUNK)):
                self._chunk(stretch, chunk, counts.get((stretch.partition, chunk), NOTHING))
        return self._tally

    def _chunk(self, stretch: Stretch, chunk: int, counts: Counts) -> None:
        first, stop = max(stretch.first, chunk * CHUNK), min(stretch.stop, (chunk + 1) * CHUNK)
        known = any(first <= offset < stop for offset in self._known.get(stretch.partition, ()))
        if counts.fill(stop - first) and not known:
            self._tally.records += stop - first
            self._tally.loaded += counts.rows
            self._tally.dead += counts.letters
            self._cut()
        elif self._too_far(stretch, first) and counts.single:
            self._tally.unread += stop - first - counts.offsets
            self._tally.records += counts.offsets
            self._tally.loaded += counts.rows
            self._tally.dead += counts.letters
        else:
            self._progress(f"{self._subject.topic}[{stretch.partition}]: reading offsets {first:,} to {stop - 1:,}")
            self._read(stretch, first, stop)

    def _too_far(self, stretch: Stretch, first: int) -> bool:
        committed = stretch.first if stretch.committed is None else stretch.committed
        return first >= committed and stretch.stop - max(committed, stretch.first) > READ_IN_FLIGHT

    def _read(self, stretch: Stretch, first: int, stop: int) -> None:
        subject, partition = self._subject, stretch.partition
        held = self._warehouse.positions(
            subject.table, subject.topic_id, partition, first, stop, letters=subject.has_letters
        )
        for offset, places in self._known.get(partition, {}).items():
            if first <= offset < stop:
                held.letters.setdefault(offset, set()).update(places)
        records = single = 0
        for message in self._reader.read(subject.topic, partition, first, stop):
            offset = message.offset() or 0
            records += 1
            rows, letters = held.rows.pop(offset, 0), held.letters.pop(offset, None)
            if rows == 1 and letters is None:
                # Nearly all of them, so at the price of a comparison.
                single += 1
                if self._within_run:
                    self._cut()
                continue
            self._within_run = True
            if rows or letters:
                self._held(partition, offset, rows, len(letters or ()))
            else:
                self._missing(stretch, offset, message)
        self._tally.loaded += single
        reached = min(self._reader.reached, stop)
        self._tally.records += records
        self._tally.control += reached - first - records
        if reached < stop:
            # An open transaction: nobody can say yet what its records will be.
            self._tally.unread += stop - reached
        for offset in sorted(held.offsets):
            if offset < reached:
                self._tally.unknown.add(partition, offset)
                self._tally.unknown.cut()

    def _missing(self, stretch: Stretch, offset: int, message: Message) -> None:
        tally = self._tally
        self._on_missing(message)
        appended = message.timestamp()[1]
        if stretch.committed is not None and offset < stretch.committed:
            tally.gaps.add(stretch.partition, offset, appended)
        else:
            tally.pending += 1
            tally.oldest_pending_ms = min(tally.oldest_pending_ms or appended, appended)

    def _held(self, partition: int, offset: int, rows: int, letters: int) -> None:
        tally = self._tally
        tally.gaps.cut()
        if rows:
            tally.loaded += 1
        else:
            tally.dead += 1
        self._repeated(tally.doubles, partition, offset, more=rows > 1)
        self._repeated(tally.double_letters, partition, offset, more=letters > 1)
        self._repeated(tally.loaded_and_dead, partition, offset, more=bool(rows and letters))

    @staticmethod
    def _repeated(spans: Spans, partition: int, offset: int, *, more: bool) -> None:
        if more:
            spans.add(partition, offset)
        else:
            spans.cut()

    def _cut(self) -> None:
        tally = self._tally
        for spans in (tally.gaps, tally.doubles, tally.double_letters, tally.loaded_and_dead):
            spans.cut()
        self._within_run = False
