"""The demonstration's own balance goes red when an event is missing, doubled or from nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.demo.foreign import Written
from devstack.demo.journal import Journal
from devstack.demo.verify import verify, wait_until_loaded
from tidewatch.clickhouse import ClickHouse
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.spec import Spec, load

SPECS: dict[str, Spec] = {"clicks": load(Path(__file__).parents[2] / "pipelines" / "clicks.yaml")}
FOREIGN = {"clicks": Written(good={(0, 7)}, bad={(0, 8)})}


@pytest.fixture
def warehouse(clickhouse: Any, fresh: str) -> Iterator[ClickHouse]:
    """Answered a, b and c: two rows and a letter; one good and one bad foreign record."""
    settings = ClickHouseSettings(url=clickhouse.url)
    with ClickHouse(settings) as outside:
        outside.command(f"CREATE DATABASE demo_{fresh}")
    with ClickHouse(settings, database=f"demo_{fresh}") as inside:
        inside.command(
            "CREATE TABLE raw_clicks (_event_id String, _project String, _partition Int32, _offset Int64) ENGINE = MergeTree ORDER BY ()"
        )
        inside.command(
            "CREATE TABLE dead_letters (pipeline String, event_id String, project String, origin_partition Nullable(Int32),"
            " origin_offset Nullable(Int64)) ENGINE = MergeTree ORDER BY ()"
        )
        inside.command("INSERT INTO raw_clicks VALUES ('a', 'shop', 0, 0), ('b', 'shop', 0, 1), ('x', '', 0, 7)")
        inside.command("INSERT INTO dead_letters VALUES ('clicks', 'c', 'shop', NULL, NULL), ('clicks', 'y', '', 0, 8)")
        yield inside


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal.jsonl")
    for event_id in "ab":
        journal.accept("clicks", event_id)
    journal.dead_letter("clicks", "c")
    return journal


def test_what_was_answered_and_landed_is_kept(warehouse: ClickHouse, journal: Journal) -> None:
    assert wait_until_loaded(warehouse, SPECS, journal, 2, seconds=5)
    assert verify(warehouse, SPECS, journal, FOREIGN).all
    assert not wait_until_loaded(warehouse, SPECS, journal, 3, seconds=0.3)


def test_a_missing_event_is_named(warehouse: ClickHouse, journal: Journal) -> None:
    journal.accept("clicks", "lost")
    verdict = verify(warehouse, SPECS, journal, FOREIGN)
    assert (verdict.missing["clicks"], verdict.all) == (["lost"], False)


def test_a_doubled_event_is_named(warehouse: ClickHouse, journal: Journal) -> None:
    warehouse.command("INSERT INTO raw_clicks VALUES ('c', 'shop', 0, 9)")
    verdict = verify(warehouse, SPECS, journal, FOREIGN)
    assert (verdict.doubled["clicks"], verdict.unannounced["clicks"], verdict.all) == (["c"], [], False)


def test_an_event_that_nobody_was_told_of_is_named(warehouse: ClickHouse, journal: Journal) -> None:
    warehouse.command("INSERT INTO raw_clicks VALUES ('ghost', 'shop', 0, 9)")
    verdict = verify(warehouse, SPECS, journal, FOREIGN)
    assert (verdict.unannounced["clicks"], verdict.all) == (["ghost"], False)


@pytest.mark.parametrize("row", ["('z', '', 0, 9)", "('z', '', 0, 7)"], ids=["unknown", "doubled"])
def test_a_foreign_record_too_many_is_told(warehouse: ClickHouse, journal: Journal, row: str) -> None:
    warehouse.command(f"INSERT INTO raw_clicks VALUES {row}")
    assert verify(warehouse, SPECS, journal, FOREIGN).foreign == ["clicks: of 1 good foreign records 2 were loaded"]


def test_a_foreign_letter_that_is_missing_is_told(warehouse: ClickHouse, journal: Journal) -> None:
    more = {"clicks": Written(good={(0, 7)}, bad={(0, 8), (0, 9)})}
    assert verify(warehouse, SPECS, journal, more).foreign == ["clicks: of 2 bad foreign records 1 were dead-lettered"]
