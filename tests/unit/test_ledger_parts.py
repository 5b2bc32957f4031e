"""The ledger's parts that need no service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from confluent_kafka import Message

from ingest.ledger import tally
from ingest.ledger.past import Hole, arrange
from ingest.ledger.positions import loader_group
from ingest.ledger.ranges import RangeRecord, RangeWriter
from ingest.ledger.report import PipelineReport, Report, Stretch, Verdict, receipt
from ingest.ledger.spans import Span, Spans, runs
from ingest.ledger.warehouse import Counts, Held
from ingest.ledger.window import Window, parse_time
from ingest.loader.service import group_of
from tidewatch.errors import ClickHouseUnavailable, UsageError
from tidewatch.telemetry.metrics import Registry

NOW = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("90s", NOW - timedelta(seconds=90)),
        ("10m", NOW - timedelta(minutes=10)),
        ("1.5h", NOW - timedelta(minutes=90)),
        ("3d", NOW - timedelta(days=3)),
        ("today", datetime(2026, 3, 2, tzinfo=UTC)),
        ("yesterday", datetime(2026, 3, 1, tzinfo=UTC)),
        ("yesterday 02:00", datetime(2026, 3, 1, 2, tzinfo=UTC)),
        ("yesterday 2:05", datetime(2026, 3, 1, 2, 5, tzinfo=UTC)),
        ("2026-03-01T02:00:00Z", datetime(2026, 3, 1, 2, tzinfo=UTC)),
        ("2026-03-01T02:00:00+02:00", datetime(2026, 3, 1, 0, tzinfo=UTC)),
        ("2026-03-01 02:00", datetime(2026, 3, 1, 2, tzinfo=UTC)),
    ],
)
def test_times_as_an_operator_writes_them(text: str, expected: datetime) -> None:
    assert parse_time(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "soon", "10", "yesterday 25:00", "2026-13-01", "-5m"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="yesterday 02:00"):
        parse_time(text, NOW)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        Window(NOW, NOW)


def test_runs_of_offsets() -> None:
    assert runs(1, [5, 3, 4, 9]) == [Span(1, 3, 5, 3, 0), Span(1, 9, 9, 1, 0)]
    assert runs(1, []) == []


def test_a_span_goes_on_over_offsets_without_records_until_it_is_cut() -> None:
    spans = Spans()
    spans.add(0, 3, 100)
    spans.add(0, 5, 101)  # 4 was a control record
    spans.cut()
    spans.add(0, 8)
    spans.add(1, 9)
    assert spans.found == [Span(0, 3, 5, 2, 100), Span(0, 8, 8, 1, 0), Span(1, 9, 9, 1, 0)]
    assert spans.count == 4


def record(first: int, last: int, **values: Any) -> RangeRecord:
    counted = values.pop("loaded", last - first + 1)
    given: dict[str, Any] = {
        "topic": "t",
        "topic_id": "id",
        "partition": 0,
        "seen": counted + values.get("dead", 0),
        "loaded": counted,
        "dead": 0,
        "expired": 0,
        "min_appended_ms": 1,
        "max_appended_ms": 2,
        "block": "b",
        "loader_version": "1",
        "written_at": NOW,
    }
    return RangeRecord(first=first, last=last, **(given | values))


def spans_of(lower: int, upper: int, *ranges: RangeRecord) -> tuple[list[list[tuple[int, int]]], list[Hole]]:
    past = arrange(Stretch(0, upper, upper, upper, upper, upper), ranges, lower, upper)
    return [[(r.first, r.last) for r in segment] for segment in past.segments], past.holes


def test_adjacent_ranges_are_one_segment_and_what_lies_between_is_a_hole() -> None:
    ranges = [record(20, 29), record(0, 9), record(10, 14)]
    assert spans_of(0, 35, *ranges) == ([[(0, 9), (10, 14)], [(20, 29)]], [Hole(15, 20), Hole(30, 35)])


def test_a_range_that_straddles_the_bound_is_counted_whole() -> None:
    assert spans_of(0, 5, record(0, 9)) == ([[(0, 9)]], [])
    assert spans_of(3, 3) == ([], [])
    assert spans_of(0, 4) == ([], [Hole(0, 4)])


def test_a_range_written_twice_over_is_counted_once() -> None:
    assert spans_of(0, 20, record(0, 19), record(5, 9)) == ([[(0, 19)]], [])


@pytest.mark.parametrize("wrong", [{"first": 5, "last": 4}, {"first": 0, "last": 4, "seen": 3}])
def test_a_range_record_must_add_up(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="add up"):
        record(**wrong)


def test_the_group_is_the_loaders() -> None:
    assert loader_group("raw.clicks.v1") == group_of("raw.clicks.v1")


def test_what_is_wrong_outweighs_what_cannot_be_shown() -> None:
    good, vague, bad = (PipelineReport(name, "t") for name in ("good", "vague", "bad"))
    vague.unprovable("gone", 0, 1, 2)
    bad.unprovable("gone")
    bad.find("gap", Span(0, 1, 1, 1, 0))
    assert [r.verdict.exit_code for r in (good, vague, bad)] == [0, 4, 3]
    assert Report(NOW, None, None, [good, vague]).verdict is Verdict.NOT_PROVABLE
    assert Report(NOW, None, None, [vague, bad, good]).exit_code == 3
    assert Report(NOW, None, None, []).verdict is Verdict.BALANCED


def test_the_receipt_does_not_depend_on_the_order_of_keys() -> None:
    assert receipt({"a": 1, "b": [2]}) == receipt({"b": [2], "a": 1, "receipt": "old"})
    assert receipt({"a": 1}) != receipt({"a": 2})


class Flaky:
    """A warehouse that is away for a while."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.bodies: list[bytes] = []
        self.asked = threading.Event()

    def command(self, _: str) -> None:
        pass

    def insert_body(self, _: str, body: bytes, **__: Any) -> None:
        self.asked.set()
        if self.failures:
            self.failures -= 1
            raise ClickHouseUnavailable("away", fix="wait")
        self.bodies.append(body)


def writer(warehouse: Flaky, **options: Any) -> RangeWriter:
    return RangeWriter(warehouse, Registry("test"), every=0.01, **options)  # type: ignore[arg-type]


def test_records_are_written_in_order_and_survive_an_outage() -> None:
    warehouse = Flaky(failures=3)
    ranges = writer(warehouse)
    ranges.append([record(0, 9)])
    ranges.append([record(10, 19)])
    assert ranges.flush(10)
    assert ranges.close()
    lines = b"\n".join(warehouse.bodies).decode().splitlines()
    assert [line.count('"first": 0') for line in lines] == [1, 0]
    assert (ranges.written, ranges.dropped) == (2, 0)


def test_an_outage_that_lasts_drops_the_oldest_and_never_blocks() -> None:
    warehouse = Flaky(failures=1 << 30)
    ranges = writer(warehouse, room=5)
    ranges.append(record(i, i) for i in range(20))
    assert warehouse.asked.wait(10)
    assert not ranges.close(timeout=0.2)
    assert ranges.dropped >= 15


class Chunks:
    """A warehouse with these counts by chunk of partition 0, and these rows in each chunk that is asked for."""

    def __init__(self, counts: dict[int, Counts], rows: dict[int, int]) -> None:
        self.counts = counts
        self.rows = rows

    def chunks(self, *_: Any, **__: Any) -> dict[tuple[int, int], Counts]:
        return {(0, chunk): counts for chunk, counts in self.counts.items()}

    def positions(self, _: str, __: str, ___: int, first: int, stop: int, **____: Any) -> Held:
        return Held({offset: rows for offset, rows in self.rows.items() if first <= offset < stop})


class Log:
    """Records at every offset."""

    reached = 0

    def read(self, topic: str, partition: int, first: int, stop: int) -> Iterator[Message]:
        for offset in range(first, stop):
            self.reached = offset + 1
            message = Mock(Message)
            message.offset.return_value = offset
            yield message


def test_a_double_far_beyond_the_position_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "CHUNK", 8)
    monkeypatch.setattr(tally, "READ_IN_FLIGHT", 20)
    full, doubled = Counts(8, 0, 8), Counts(9, 0, 8)
    chunks = Chunks({1: doubled, 2: full}, {offset: 1 + (offset == 11) for offset in range(8, 16)})
    reading = tally.Reading(chunks, Log())  # type: ignore[arg-type]
    subject = tally.Subject("t", "id", "table", has_letters=True)
    found = tally.Tallying(subject, reading).run([Stretch(0, 0, 40, 0, 40, 0)])
    assert [(span.first, span.last, span.count) for span in found.doubles.found] == [(11, 11, 1)]
    assert (found.loaded, found.unread, found.records) == (16, 24, 16)
