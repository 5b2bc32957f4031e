"""The check: the log, the rows and the dead letters of each pipeline, held against each other.

The order of reading is part of the proof. Positions come first, the ends of the log next, the warehouse last: what a position had passed over was loaded or dead-lettered before it was committed, so it must be found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from ingest.ledger.accounting import gateway_terms, outbox_terms
from ingest.ledger.identity import find_repeated
from ingest.ledger.letters import LetterBook, read_letters
from ingest.ledger.past import Recount, arrange
from ingest.ledger.positions import Positions, Standing, read_positions, stretches
from ingest.ledger.ranges import RangeRecord, last_before, reached, read_ranges
from ingest.ledger.report import Kind, PipelineReport, Report, Stretch
from ingest.ledger.sources import Sources
from ingest.ledger.spans import Span, Spans
from ingest.ledger.tally import Reading, Subject, Tally, Tallying
from ingest.ledger.warehouse import LETTERS, Warehouse
from ingest.ledger.window import Window
from tidewatch.clickhouse import ClickHouse
from tidewatch.errors import TidewatchError
from tidewatch.kafka.admin import LATEST, KafkaAdmin, Partition, Topic
from tidewatch.kafka.reading import RecordsGone
from tidewatch.spec import Spec

# Without a window, this far back at the most: range records are kept for 400 days.
_HORIZON = timedelta(days=365)
_ATTEMPTS = 3


def check(window: Window, specs: Iterable[Spec], sources: Sources, now: datetime) -> Report:
    """Never raises for a source that cannot be read: its pipelines come out as not provable, with the reason."""
    reports = [_report(window, spec, sources, now) for spec in specs]
    return Report(now, window.since, window.until, reports)


def _report(window: Window, spec: Spec, sources: Sources, now: datetime) -> PipelineReport:
    report = PipelineReport(spec.name, spec.topic.name)
    admin, clickhouse = sources.admin, sources.clickhouse
    if isinstance(admin, TidewatchError):
        report.unprovable(f"Kafka cannot be read: {admin.what}")
    elif isinstance(clickhouse, TidewatchError):
        report.unprovable(f"ClickHouse cannot be read: {clickhouse.what}")
    else:
        report = _checked(window, spec, sources, admin, clickhouse, now)
    if spec.source.kind == "outbox":
        if isinstance(sources.store, TidewatchError):
            report.unprovable(f"the SQL store cannot be read: {sources.store.what}")
        else:
            outbox_terms(sources.store, report)
    return report


def _checked(  # noqa: PLR0917 — the two sources are known to be open here
    window: Window, spec: Spec, sources: Sources, admin: KafkaAdmin, clickhouse: ClickHouse, now: datetime
) -> PipelineReport:
    report = PipelineReport(spec.name, spec.topic.name)
    for _ in range(_ATTEMPTS):
        report = PipelineReport(spec.name, spec.topic.name)
        warehouse = Warehouse(clickhouse)
        try:
            reading = Reading(warehouse, sources.reader, sources.progress)
            PipelineCheck(window, spec, admin, clickhouse, reading, report, now).run()
        except RecordsGone as error:
            # Retention overtook the check: what it removed is judged by range records the next time round.
            report.unprovable(error.what)
            continue
        except TidewatchError as error:
            report.unprovable(error.what)
        report.queries = list(warehouse.asked)
        break
    return report


class PipelineCheck:
    """One pipeline, once; fills `report`."""

    def __init__(  # noqa: PLR0917
        self,
        window: Window,
        spec: Spec,
        admin: KafkaAdmin,
        clickhouse: ClickHouse,
        reading: Reading,
        report: PipelineReport,
        now: datetime,
    ) -> None:
        self._asked = window
        self._spec = spec
        self._admin = admin
        self._clickhouse = clickhouse
        self._reading = reading
        self._report = report
        self._now = now
        self._standing = Standing(admin, reading.warehouse, report)
        # Without a beginning the window goes back as far as rows are kept.
        self._window = window if window.since is not None else Window(now - self._kept(), window.until)

    def run(self) -> None:
        spec, report = self._spec, self._report
        topics = self._admin.topics([spec.topic.name, spec.dead_letters.topic])
        topic, dlq = topics.get(spec.topic.name), topics.get(spec.dead_letters.topic)
        if topic is None:
            report.unprovable(f"there is no topic {spec.topic.name}: run `tidewatch spec apply`")
            return
        report.topic_id = topic.topic_id
        # Both before the end of either log is read: the loader's offsets and its letters may be committed together.
        positions = self._positions(topic)
        of_letters = self._positions(dlq) if dlq is not None else None
        covered = stretches(self._admin, topic, positions, self._window)
        book = LetterBook(Tally())
        if dlq is not None and of_letters is not None:
            book = self._letters(dlq, of_letters)
        subject = Subject(topic.name, topic.topic_id, spec.table.name, has_letters=True)
        self._standing.judge(topic, subject, positions, covered)
        covered = self._past(subject, covered)
        report.stretches = covered
        tally = Tallying(subject, self._reading, known=book.known(topic.topic_id)).run(covered)
        self._take(tally)
        self._beyond(subject, topic, covered)
        if spec.expect.unique_event_id:
            find_repeated(subject, covered, self._asked, self._reading, report)
        if report.terms.expired:
            report.notes.append(f"retention took {report.terms.expired:,} offsets before they could be loaded")
        report.gateway = gateway_terms(self._clickhouse, spec.name, self._asked)
        if self._asked.since is None:
            report.history = self._reading.warehouse.incarnations(spec.table.name, topic.topic_id)

    def _positions(self, topic: Topic) -> Positions:
        return read_positions(self._admin, topic, reached(self._clickhouse, topic.topic_id))

    def _kept(self) -> timedelta:
        """How long rows are kept for certain: ClickHouse drops them by day."""
        age = self._spec.table.ttl
        return min(_HORIZON, age - timedelta(days=1)) if age is not None else _HORIZON

    def _letters(self, dlq: Topic, positions: Positions) -> LetterBook:
        report, warehouse = self._report, self._reading.warehouse
        # To its end: the letter of a record in the window may be younger than the window.
        covered = stretches(self._admin, dlq, positions, replace(self._window, until=None))
        subject = Subject(dlq.name, dlq.topic_id, LETTERS, has_letters=False)
        self._standing.judge(dlq, subject, positions, covered)
        book = read_letters(subject, covered, self._reading)
        for letter in book.lost:
            partition, offset = letter.place
            origin = letter.origin
            source = f"of {origin.topic}[{origin.partition}] offset {origin.offset}" if origin else "of the gateway"
            report.find("lost_letter", Span(partition, offset, offset, 1, 0), f"{letter.error}, {source}", dlq.name)
        self._spans("double_letter_row", book.tally.doubles, dlq.name)
        self._spans("unknown_row", book.tally.unknown, dlq.name)
        of_gateway = warehouse.gateway_letters(dlq.topic_id, covered) + book.of_gateway
        report.terms.dead_lettered["gateway"] = of_gateway
        report.terms.accepted += of_gateway
        report.terms.letters_pending = len(book.pending) + book.tally.unread
        return book

    def _past(self, subject: Subject, covered: list[Stretch]) -> list[Stretch]:
        """Account for what retention removed; the stretches that are left to be held against the log."""
        if self._asked.since is not None and self._asked.since < self._now - self._kept():
            self._report.unprovable(f"rows older than {self._kept().days} days are no longer kept for certain")
        since = self._window.since or self._now
        since_ms = int(since.timestamp() * 1000)
        if not any(stretch.first == stretch.oldest > 0 for stretch in covered):
            return covered
        ranges = read_ranges(self._clickhouse, subject.topic_id, since_ms)
        before = last_before(self._clickhouse, subject.topic_id, since_ms)
        recount = Recount(subject, self._reading.warehouse, self._report)
        left = []
        for stretch in covered:
            if not stretch.first == stretch.oldest > 0:
                left.append(stretch)
                continue
            old = [r for r in ranges if r.partition == stretch.partition and r.first < stretch.oldest]
            until = self._window.until
            inside = [r for r in old if until is None or r.min_appended_ms < until.timestamp() * 1000]
            lower = self._lower(inside, before.get(stretch.partition), since_ms)
            upper = stretch.oldest
            if stretch.stop == stretch.oldest and len(inside) < len(old):
                upper = old[len(inside)].first
            recount.run(arrange(stretch, inside, lower, upper))
            counted = inside[-1].last + 1 if inside else stretch.first
            first = max(stretch.first, counted)
            left.append(replace(stretch, first=first, stop=max(first, stretch.stop)))
        return left

    @staticmethod
    def _lower(ranges: list[RangeRecord], before: int | None, since_ms: int) -> int:
        """The first offset that may belong to the window."""
        if before is not None:
            return before + 1
        if ranges and ranges[0].min_appended_ms <= since_ms:
            return ranges[0].first
        return 0

    def _take(self, tally: Tally) -> None:
        terms = self._report.terms
        terms.accepted += tally.records + tally.unread
        terms.loaded += tally.loaded
        terms.dead_lettered["loader"] += tally.dead
        terms.pending += tally.pending + tally.unread
        terms.oldest_pending_ms = tally.oldest_pending_ms
        terms.lost += tally.gaps.count
        terms.control += tally.control
        if tally.unread:
            self._report.notes.append(f"{tally.unread:,} offsets in flight were counted without being read")
        self._spans("gap", tally.gaps)
        self._spans("double", tally.doubles)
        self._spans("double_letter", tally.double_letters)
        self._spans("loaded_and_dead", tally.loaded_and_dead)
        self._spans("unknown_row", tally.unknown)

    def _beyond(self, subject: Subject, topic: Topic, covered: list[Stretch]) -> None:
        """Rows where the log does not reach. It may have grown since, so its end is asked again."""
        ends = [stretch.end for stretch in covered]
        found = self._reading.warehouse.beyond(subject.table, subject.topic_id, ends, letters=True)
        if not found:
            return
        partitions = [Partition(topic.name, number) for number in range(topic.partitions)]
        now = {where.partition: end for where, end in self._admin.offsets(partitions, LATEST).items()}
        spans = Spans()
        for partition, offset, *_ in found:
            if offset >= now.get(partition, 0):
                spans.add(partition, offset)
                spans.cut()
        self._spans("unknown_row", spans)

    def _spans(self, kind: Kind, spans: Spans, topic: str = "") -> None:
        for span in spans.found:
            self._report.find(kind, span, DETAILS.get(kind, ""), topic)


DETAILS = {
    "gap": "passed over by the loader, and neither a row nor a dead letter",
    "unknown_row": "no committed record of the topic stands there",
}
