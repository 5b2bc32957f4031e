"""The ledger against a real log and a real warehouse: whatever is tampered with is named by its offset."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingest.ledger import past, tally, warehouse
from ingest.ledger.report import Verdict, receipt
from ingest.ledger.window import Window
from ingest.loader.blocks import Range
from ingest.loader.intents import Intent, encode, mark
from tests.e2e.ledger_stage import ROOT, LedgerStage, details, envelope, found, ledger_stage
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.settings import Kafka


@pytest.fixture
def stage(kafka: Any, clickhouse: Any, tmp_path: Path, fresh: str) -> Iterator[LedgerStage]:
    with ledger_stage(kafka, clickhouse, tmp_path, fresh) as made:
        yield made


def test_all_loaded_balances(stage: LedgerStage) -> None:
    stage.produce(100)
    stage.produce(50, partition=1)
    stage.load()
    stage.load(partition=1)
    report = stage.check()
    assert (report.verdict, found(report), report.not_provable) == (Verdict.BALANCED, [], [])
    terms = report.terms
    assert (terms.accepted, terms.loaded, terms.pending, terms.lost, terms.control) == (150, 150, 0, 0, 0)


def test_an_empty_topic_balances(stage: LedgerStage) -> None:
    assert stage.check().verdict is Verdict.BALANCED


def test_deleted_rows_are_named_by_their_offsets(stage: LedgerStage) -> None:
    stage.produce(30, partition=1)
    stage.load(partition=1)
    stage.delete("_partition = 1 AND _offset IN (7, 20, 21, 22)")
    report = stage.check()
    assert report.verdict is Verdict.NOT_BALANCED
    assert found(report) == [("gap", 1, 7, 7, 1), ("gap", 1, 20, 22, 3)]
    assert (report.terms.accepted, report.terms.loaded, report.terms.lost) == (30, 26, 4)


def test_a_doubled_row_is_named_by_its_offset(stage: LedgerStage) -> None:
    stage.produce(30)
    stage.load()
    stage.insert([(0, 11), (0, 12), (0, 12)])
    report = stage.check()
    assert found(report) == [("double", 0, 11, 12, 2)]
    assert (report.terms.accepted, report.terms.loaded) == (30, 30)


def test_a_deleted_and_a_doubled_row_do_not_make_up_for_each_other(stage: LedgerStage) -> None:
    stage.produce(30)
    stage.load()
    stage.delete("_offset = 3")
    stage.insert([(0, 4)])
    assert found(stage.check()) == [("double", 0, 4, 4, 1), ("gap", 0, 3, 3, 1)]


def test_a_row_moved_beyond_the_log_is_named_at_both_offsets(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.load(skip=[6])
    stage.insert([(0, 5000)])
    assert found(stage.check()) == [("gap", 0, 6, 6, 1), ("unknown_row", 0, 5000, 5000, 1)]


def test_a_row_of_a_partition_that_does_not_exist(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.load()
    stage.insert([(9, 3)])
    assert found(stage.check()) == [("unknown_row", 9, 3, 3, 1)]


def test_records_beyond_the_committed_offset_are_pending_not_lost(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.load()
    stage.produce(5)
    report = stage.check()
    assert (report.verdict, report.terms.pending, report.terms.lost) == (Verdict.BALANCED, 5, 0)
    assert report.terms.oldest_pending_ms is not None
    assert "5 in flight" in report.why


def test_rows_inserted_before_their_offset_is_committed_are_loaded(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.commit(0, 0, metadata=intent(stage, 0, 9))
    stage.load(commit=False)
    report = stage.check()
    assert (report.verdict, report.terms.loaded, report.terms.pending) == (Verdict.BALANCED, 10, 0)


def intent(stage: LedgerStage, first: int, last: int) -> str:
    return encode(Intent(stage.topic_id, (Range(0, first, last),), "judge", 1, 2, 0))


def test_records_lost_before_the_committed_offsets_were_forgotten_are_named_all_the_same(stage: LedgerStage) -> None:
    stage.produce(2000)
    stage.load()
    stage.ranges((0, 1499, 1500, 0), (1500, 1999, 500, 0))
    stage.delete("_offset BETWEEN 10 AND 400 OR _offset >= 1500")
    stage.forget_offsets()
    report = stage.check()
    assert report.verdict is Verdict.NOT_BALANCED
    assert found(report) == [("gap", 0, 10, 400, 391), ("gap", 0, 1500, 1999, 500)]
    assert (report.terms.lost, report.terms.pending) == (891, 0)
    assert "no committed offset for partition 0" in report.notes[0]


def test_forgotten_offsets_alone_leave_a_proof_by_range_records(stage: LedgerStage) -> None:
    stage.produce(20)
    stage.load()
    stage.ranges((0, 19, 20, 0))
    stage.produce(5)
    stage.forget_offsets()
    report = stage.check()
    assert (report.verdict, report.terms.pending) == (Verdict.BALANCED, 5)


@pytest.mark.parametrize("ranges", [(), ((0, 9, 10, 0),)])
def test_rows_without_a_committed_offset_prove_nothing_beyond_the_range_records(
    stage: LedgerStage, ranges: tuple[tuple[int, int, int, int], ...]
) -> None:
    stage.produce(20)
    stage.load()
    stage.ranges(*ranges)
    stage.delete("_offset = 14")
    stage.forget_offsets()
    report = stage.check()
    assert (report.verdict, found(report)) == (Verdict.NOT_PROVABLE, [])
    rows = 9 if ranges else 19
    assert f"no committed offset for partition 0 though {rows} rows are loaded" in report.why


def test_a_letter_without_a_committed_offset_speaks_against_pending(stage: LedgerStage) -> None:
    stage.produce(5)
    stage.bury(3)
    assert "no committed offset for partition 0 though 1 rows" in stage.check().why


@pytest.mark.parametrize("ranges", [(), ((0, 19, 20, 0),)])
def test_an_offset_that_was_set_back_is_said(stage: LedgerStage, ranges: tuple[tuple[int, int, int, int], ...]) -> None:
    stage.produce(20)
    stage.load()
    stage.ranges(*ranges)
    stage.commit(0, 15)
    report = stage.check()
    assert found(report) == [("position_moved", 0, 15, 19, 5)]
    assert "the committed offset is 15" in details(report)
    stage.delete("_offset = 17")
    lost = [("gap", 0, 17, 17, 1)] if ranges else []
    assert found(stage.check()) == [*lost, ("position_moved", 0, 15, 19, 5)]


def test_rows_beyond_the_intent_that_was_committed_are_a_position_set_back(stage: LedgerStage) -> None:
    stage.produce(20)
    stage.load()
    stage.commit(0, 10, metadata=intent(stage, 10, 14))
    assert found(stage.check()) == [("position_moved", 0, 15, 19, 5)]


def test_an_offset_committed_for_an_earlier_topic_is_no_position(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.commit(0, 8, metadata=mark("AnEarlierTopicsIdentity"))
    report = stage.check()
    assert (found(report), report.terms.pending) == ([], 10)


def test_a_letters_group_that_was_set_back_is_said(stage: LedgerStage) -> None:
    stage.produce(5)
    stage.load(skip=[1, 2])
    stage.bury(1)
    stage.bury(2)
    dlq = stage.spec.dead_letters.topic
    stage.commit(0, 0, dlq)
    report = stage.check()
    assert [(f.kind, f.topic) for f in report.findings] == [("position_moved", dlq)]


def test_a_committed_offset_moved_past_unloaded_records_is_a_gap(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.load()
    stage.produce(10)
    assert stage.check().terms.pending == 10
    stage.commit(0, 15)
    report = stage.check()
    assert found(report) == [("gap", 0, 10, 14, 5)]
    assert (report.terms.lost, report.terms.pending) == (5, 5)


def test_dead_letters_are_accounted_for(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.load(skip=[3, 4])
    stage.bury(3)
    stage.bury(4)
    stage.bury_at_gateway()
    report = stage.check()
    assert (report.verdict, found(report)) == (Verdict.BALANCED, [])
    terms = report.terms
    assert (terms.accepted, terms.loaded, terms.dead_lettered) == (11, 8, {"gateway": 1, "loader": 2})


def test_a_deleted_letter_is_named_by_its_own_place_and_its_origin(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.load(skip=[3, 4])
    stage.bury(3)
    place = stage.bury(4)
    stage.delete(f"_offset = {place}", "dead_letters")
    report = stage.check()
    assert found(report) == [("lost_letter", 0, place, place, 1)]
    assert report.findings[0].topic == stage.spec.dead_letters.topic
    assert f"{stage.spec.topic.name}[0] offset 4" in details(report)
    assert report.terms.dead_lettered["loader"] == 2, "the record was dead-lettered all the same"


def test_a_letter_on_its_way_to_the_warehouse_is_not_a_gap(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.load(skip=[4])
    stage.bury(4, load=False)
    report = stage.check()
    assert (report.verdict, found(report), report.terms.letters_pending) == (Verdict.BALANCED, [], 1)
    assert report.terms.dead_lettered["loader"] == 1


def test_a_letter_that_stands_twice_and_a_record_both_loaded_and_dead(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.load(skip=[4])
    place = stage.bury(4)
    stage.bury(5)
    assert found(stage.check()) == [("loaded_and_dead", 0, 5, 5, 1)]
    stage.clickhouse.command("INSERT INTO dead_letters SELECT * FROM dead_letters WHERE origin_offset = 4")
    assert found(stage.check()) == [("double_letter_row", 0, place, place, 1), ("loaded_and_dead", 0, 5, 5, 1)]


def test_a_record_with_two_letters(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.load(skip=[4])
    stage.bury(4)
    stage.bury(4)
    assert found(stage.check()) == [("double_letter", 0, 4, 4, 1)]


def test_transactions_stay_balanced_and_their_markers_are_counted_apart(stage: LedgerStage) -> None:
    stage.transaction(5)
    stage.produce(3)
    stage.transaction(4, commit=False)
    stage.transaction(2)
    stage.load()
    report = stage.check()
    assert (report.verdict, found(report)) == (Verdict.BALANCED, [])
    terms = report.terms
    assert (terms.accepted, terms.loaded, terms.pending) == (10, 10, 0)
    assert terms.control == 3 + 4, "three markers and four aborted records"


def test_a_gap_between_control_records_is_named_exactly(stage: LedgerStage) -> None:
    for _ in range(4):
        stage.transaction(3)
    offsets = stage.load()
    assert offsets == [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]
    stage.delete("_offset = 6")
    assert found(stage.check()) == [("gap", 0, 6, 6, 1)]
    stage.insert([(0, 7)])  # a row where a marker stands
    assert found(stage.check()) == [("gap", 0, 6, 6, 1), ("unknown_row", 0, 7, 7, 1)]


def test_an_event_id_at_two_offsets_is_a_finding_unless_it_is_a_declared_replay(stage: LedgerStage) -> None:
    stage.produce(5)
    stage.produce(1, partition=1, headers=lambda _: [("tw", envelope("e2"))])
    stage.load()
    stage.load(partition=1)
    report = stage.check()
    assert found(report) == [("duplicate_event_id", 1, 0, 0, 1)]
    assert "e2" in details(report)
    assert "0:2, 1:0" in details(report)
    stage.produce(1, headers=lambda _: [("tw", envelope("e3")), ("tw-replay", b"job;1;0:3;")])
    stage.load(partition=0, skip=range(5))
    assert found(stage.check()) == [("duplicate_event_id", 1, 0, 0, 1)]


def test_a_pipeline_may_allow_repeated_event_ids(stage: LedgerStage) -> None:
    stage.produce(2, headers=lambda _: [("tw", envelope("same"))])
    stage.load()
    expect = stage.spec.expect.model_copy(update={"unique_event_id": False})
    stage.spec = stage.spec.model_copy(update={"expect": expect})
    assert stage.check().verdict is Verdict.BALANCED


def test_a_window_of_append_time_covers_its_records_alone(stage: LedgerStage) -> None:
    stage.produce(10)
    time.sleep(0.05)
    middle = datetime.now(UTC)
    time.sleep(0.05)
    stage.produce(10)
    stage.load(skip=[4, 14])
    before, after = stage.check(Window(until=middle)), stage.check(Window(since=middle))
    assert (found(before), before.terms.accepted) == ([("gap", 0, 4, 4, 1)], 10)
    assert (found(after), after.terms.accepted) == ([("gap", 0, 14, 14, 1)], 10)
    tomorrow = stage.check(Window(since=datetime.now(UTC) + timedelta(days=1)))
    assert (tomorrow.verdict, tomorrow.terms.accepted) == (Verdict.BALANCED, 0)


def test_after_retention_range_records_prove_the_past(stage: LedgerStage) -> None:
    stage.transaction(10)
    stage.transaction(10)
    stage.load()
    stage.ranges((0, 9, 10, 0), (10, 20, 10, 0))
    stage.expire(15)
    report = stage.check()
    assert (report.verdict, found(report), report.not_provable) == (Verdict.BALANCED, [], [])
    assert (report.terms.accepted, report.terms.loaded) == (20, 20)
    stage.delete("_offset IN (4, 12)")
    stage.insert([(0, 6)])
    report = stage.check()
    assert ("double", 0, 6, 6, 1) in found(report)
    assert ("gap", 0, 4, 4, 1) in found(report)
    assert [f.detail for f in report.findings if f.first == 10] == [
        "1 of offsets 10, 12; the others never held a record"
    ]


@pytest.mark.parametrize("at_once", [1, 2, 5000])
def test_after_retention_a_row_moved_into_another_range_is_missed_where_it_was(
    stage: LedgerStage, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(past, "_RANGES_AT_ONCE", at_once)
    stage.transaction(4)
    stage.transaction(4)
    stage.transaction(4)
    stage.produce(1)
    stage.load()
    stage.ranges((0, 4, 4, 0), (5, 9, 4, 0), (10, 15, 5, 0))
    stage.expire(16)
    assert stage.check().verdict is Verdict.BALANCED
    stage.delete("_offset = 2")
    stage.insert([(0, 9)])  # where the marker of the second transaction stood
    assert found(stage.check()) == [("gap", 0, 2, 4, 1), ("unknown_row", 0, 5, 9, 1)]


def test_after_retention_nothing_is_provable_without_range_records(stage: LedgerStage) -> None:
    stage.transaction(10)
    stage.produce(10)
    stage.load()
    stage.expire(15)
    report = stage.check()
    assert (report.verdict, found(report)) == (Verdict.NOT_PROVABLE, [])
    (hole,) = report.not_provable
    assert (hole.partition, hole.first, hole.last) == (0, 0, 14)
    assert "retention" in hole.why
    stage.ranges((0, 9, 10, 0))
    (hole,) = stage.check().not_provable
    assert (hole.first, hole.last) == (10, 14)


def test_after_retention_an_unbroken_run_of_rows_is_a_proof_by_itself(stage: LedgerStage) -> None:
    stage.produce(20)
    stage.load()
    stage.expire(15)
    report = stage.check()
    assert (report.verdict, report.terms.accepted, report.terms.loaded) == (Verdict.BALANCED, 20, 20)
    stage.delete("_offset = 4")
    assert stage.check().verdict is Verdict.NOT_PROVABLE


def test_records_that_expired_before_they_were_read_say_so(stage: LedgerStage) -> None:
    stage.produce(20)
    stage.expire(15)
    stage.commit(0, 0)
    (hole,) = stage.check().not_provable
    assert (hole.first, hole.last) == (0, 14)
    assert "before the loader had read them" in hole.why


def test_rows_of_an_earlier_topic_are_history(stage: LedgerStage) -> None:
    stage.produce(5)
    stage.load()
    stage.insert([(0, offset) for offset in range(7)], topic_id="AnEarlierTopicsIdentity")
    report = stage.check()
    assert report.verdict is Verdict.BALANCED
    assert [(old.topic_id, old.rows, old.offsets) for old in report.history] == [("AnEarlierTopicsIdentity", 7, 7)]


@pytest.mark.parametrize("chunk", [8, 1 << 16])
def test_chunks_meet_without_seam(stage: LedgerStage, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    for module in (tally, warehouse):
        monkeypatch.setattr(module, "CHUNK", chunk)
    stage.produce(50)
    stage.load()
    assert stage.check().terms.accepted == 50
    stage.delete("_offset BETWEEN 6 AND 17")
    stage.insert([(0, 31)])
    assert found(stage.check()) == [("double", 0, 31, 31, 1), ("gap", 0, 6, 17, 12)]


def test_so_much_in_flight_that_it_is_counted_without_being_read(
    stage: LedgerStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "READ_IN_FLIGHT", 10)
    for module in (tally, warehouse):
        monkeypatch.setattr(module, "CHUNK", 8)
    stage.produce(16)
    stage.load()
    stage.produce(30)
    report = stage.check()
    assert (report.verdict, report.terms.pending, report.terms.accepted) == (Verdict.BALANCED, 30, 46)
    assert "30 offsets in flight" in report.notes[0]


def test_a_source_that_cannot_be_read_is_not_provable(stage: LedgerStage) -> None:
    stage.produce(3)
    away = ClickHouseSettings(url="http://127.0.0.1:1")
    stage.settings = stage.settings.model_copy(update={"clickhouse": away})
    report = stage.report()
    assert (report.verdict, report.exit_code) == (Verdict.NOT_PROVABLE, 4)
    assert "ClickHouse" in report.pipelines[0].why
    stage.settings = stage.settings.model_copy(update={"kafka": Kafka(bootstrap="127.0.0.1:1")})
    assert "Kafka" in stage.check().why


def test_a_missing_table_and_a_missing_topic_are_not_provable(stage: LedgerStage) -> None:
    stage.clickhouse.command(f"DROP TABLE {stage.spec.table.name}")
    assert stage.check().verdict is Verdict.NOT_PROVABLE
    stage.admin.delete_topic(stage.spec.topic.name)
    report = stage.check()
    assert (report.verdict, "no topic" in report.why) == (Verdict.NOT_PROVABLE, True)


def test_the_receipt_is_a_hash_of_all_that_was_found(stage: LedgerStage) -> None:
    stage.produce(3)
    stage.load()
    report = stage.report().as_dict()
    assert report["receipt"] == receipt(json.loads(json.dumps(report)))
    assert report["pipelines"][0]["queries"], "how to see it for oneself"
    report["pipelines"][0]["terms"]["loaded"] += 1
    assert receipt(report) != report["receipt"]


def run_cli(stage: LedgerStage, *arguments: str, url: str = "") -> subprocess.CompletedProcess[str]:
    environment = {
        "TIDEWATCH_PIPELINES": str(stage.settings.pipelines),
        "TIDEWATCH_KAFKA__BOOTSTRAP": stage.settings.kafka.bootstrap,
        "TIDEWATCH_CLICKHOUSE__URL": url or stage.settings.clickhouse.url,
        "TIDEWATCH_CLICKHOUSE__DATABASE": stage.settings.clickhouse.database,
        "PATH": "/usr/bin:/bin",
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", "controlplane.cli.main", "ledger", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_command_says_it_by_its_exit_code(stage: LedgerStage) -> None:
    stage.produce(10)
    stage.load()
    stage.ranges((0, 9, 10, 0))
    only = ("check", "--pipeline", "clicks")
    balanced = run_cli(stage, *only)
    assert (balanced.returncode, "✓ balanced" in balanced.stdout) == (0, True), balanced.stdout + balanced.stderr
    stage.delete("_offset = 7")
    wrong = run_cli(stage, *only, "--json", "--from", "1h")
    assert wrong.returncode == 3
    (finding,) = json.loads(wrong.stdout)["pipelines"][0]["findings"]
    assert (finding["kind"], finding["partition"], finding["first"], finding["last"]) == ("gap", 0, 7, 7)
    assert "gap" in run_cli(stage, *only).stdout
    away = run_cli(stage, *only, url="http://127.0.0.1:1")
    assert (away.returncode, "ClickHouse" in away.stdout, "Traceback" in away.stderr) == (4, True, False)
    nonsense = run_cli(stage, *only, "--from", "soonish")
    assert (nonsense.returncode, "is no time" in nonsense.stderr) == (2, True)
    listed = run_cli(stage, "ranges", "--pipeline", "clicks", "--json")
    assert json.loads(listed.stdout)["last"] == 9
