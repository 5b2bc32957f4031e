"""`tidewatch spec plan | apply` against a real broker and a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.schema import plan as planning
from ingest.schema.changes import Additive, Statement
from tidewatch.clickhouse import ClickHouse
from tidewatch.clock import ManualClock
from tidewatch.kafka.admin import KafkaAdmin
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.settings import Kafka
from tidewatch.spec import Specs, load_all

ROOT = Path(__file__).parents[2]
SPEC = """
name: visits
description: For a test.
owner: tests
source: {kind: internal}
topic: {name: raw.SUFFIX.v1, partitions: 2, retention: 7d}
dead_letters: {topic: dlq.SUFFIX.v1, retention: 30d}
schema:
  version: 1
  fields:
    - {name: page, type: string, required: true}
    - {name: at, type: timestamp, required: true}
    - {name: spent, type: "decimal(10,2)"}
table: {name: raw_visits, order_by: [page, at], ttl: 90d}
aggregates:
  - name: visits_hourly
    time: at
    by: [page]
    measures: {events: count()}
"""


class Place:
    """A directory of specs, and the services that they are compared with."""

    def __init__(self, directory: Path, suffix: str, kafka: str, clickhouse: str) -> None:
        self.path = directory / "visits.yaml"
        self.text = SPEC.replace("SUFFIX", suffix)
        self.write()
        self.database = f"apply_{suffix}"
        self.topic, self.letters = f"raw.{suffix}.v1", f"dlq.{suffix}.v1"
        self.kafka = KafkaAdmin(Kafka(bootstrap=kafka))
        settings = ClickHouseSettings(url=clickhouse, database=self.database)
        self.clickhouse = ClickHouse(settings, database="default")
        self.environ = {
            "TIDEWATCH_PIPELINES": str(directory),
            "TIDEWATCH_KAFKA__BOOTSTRAP": kafka,
            "TIDEWATCH_CLICKHOUSE__URL": clickhouse,
            "TIDEWATCH_CLICKHOUSE__DATABASE": self.database,
        }

    def write(self, *changes: tuple[str, str]) -> None:
        """The spec, with texts of it replaced; each must be there."""
        text = self.text
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.path.write_text(text, encoding="utf-8")

    def specs(self) -> Specs:
        return load_all(self.path.parent, builtin=False)

    def plan(self) -> planning.Plan:
        return planning.plan(self.specs(), self.kafka, self.clickhouse)

    def apply(self) -> planning.Plan:
        found = self.plan()
        planning.apply(found, self.kafka, self.clickhouse, ManualClock())
        return found

    def refused(self) -> list[tuple[str, str]]:
        """Of a plan that adds nothing."""
        found = self.plan()
        assert found.additive == ()
        assert all(change.reason and change.manual for change in found.refused)
        return [(change.target, change.what) for change in found.refused]

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "controlplane.cli.main", "spec", *arguments]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TIDEWATCH_")}
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environ | self.environ,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )


@pytest.fixture
def place(tmp_path: Path, fresh: str, kafka: Any, clickhouse: Any) -> Iterator[Place]:
    made = Place(tmp_path, fresh, kafka.bootstrap, clickhouse.url)
    yield made
    made.clickhouse.command(f"DROP DATABASE IF EXISTS {made.database} SYNC")
    made.kafka.close()
    made.clickhouse.close()


def test_the_first_apply_makes_everything_and_the_second_plan_is_empty(place: Place) -> None:
    place.apply()
    assert place.plan().changes == ()
    topic = place.kafka.topic(place.topic)
    assert (topic.partitions, topic.replication) == (2, 1)
    assert topic.configs["retention.ms"] == str(7 * 86_400_000)
    assert topic.configs["message.timestamp.type"] == "LogAppendTime"
    assert topic.configs["cleanup.policy"] == "delete"
    assert int(topic.configs["max.message.bytes"]) >= 1_048_576 + 65_536
    assert place.kafka.topic(place.letters).partitions == 1
    tables = {row[0] for row in place.clickhouse.query(f"SHOW TABLES FROM {place.database}")}
    assert tables >= {
        "raw_visits",
        "visits_hourly",
        "visits_hourly_view",
        "dead_letters",
        "spec_applies",
        "ledger_ranges",
    }


def test_every_pipeline_of_the_project_can_be_applied(place: Place, fresh: str) -> None:
    specs = load_all(ROOT / "pipelines")
    renamed = {}
    for name, spec in specs.items():
        topic = spec.topic.model_copy(update={"name": f"{spec.topic.name}.{fresh}"})
        letters = spec.dead_letters.model_copy(update={"topic": f"{spec.dead_letters.topic}.{fresh}"})
        renamed[name] = spec.model_copy(update={"topic": topic, "dead_letters": letters})
    planning.apply(planning.plan(renamed, place.kafka, place.clickhouse), place.kafka, place.clickhouse, ManualClock())
    assert planning.plan(renamed, place.kafka, place.clickhouse).changes == ()


def test_additive_changes_are_made(place: Place) -> None:
    place.apply()
    place.write(
        ("partitions: 2, retention: 7d", "partitions: 4, retention: 9d"),
        (
            '    - {name: spent, type: "decimal(10,2)"}',
            '    - {name: spent, type: "decimal(10,2)"}\n    - {name: who, type: string}',
        ),
        ("ttl: 90d", "ttl: 91d, dedup_window: 200000"),
        ("{events: count()}", "{events: count(), spent: sum(spent), people: uniq(who)}"),
    )
    found = place.apply()
    assert found.refused == ()
    assert place.plan().changes == ()
    assert place.kafka.topic(place.topic).partitions == 4
    create = place.clickhouse.scalar(
        f"SELECT create_table_query FROM system.tables WHERE database = '{place.database}' AND name = 'raw_visits'"
    )
    assert "toIntervalSecond(7862400)" in create
    assert "non_replicated_deduplication_window = 200000" in create
    _insert_visit(place)
    assert place.clickhouse.query(
        f"SELECT sum(events), sum(spent), uniqMerge(people) FROM {place.database}.visits_hourly"
    ) == [(1, pytest.approx(2.5), 1)]


def _insert_visit(place: Place) -> None:
    place.clickhouse.command(
        f"INSERT INTO {place.database}.raw_visits (_event_id, _received_at, page, at, spent, who) "
        "SELECT 'e', now64(6), '/', now64(6), 2.5, 'me'",
        settings={"async_insert": 0},
    )


@pytest.mark.parametrize(
    ("old", "new", "target", "what"),
    [
        ("partitions: 2", "partitions: 1", "topic raw", "partitions 2 → 1"),
        ("retention: 7d", "retention: 6d", "topic raw", "retention.ms 604800000 → 518400000"),
        ("retention: 30d", "retention: 29d", "topic dlq", "retention.ms 2592000000 → 2505600000"),
        ("partitions: 2", "partitions: 2, replication: 2, min_insync: 1", "topic raw", "replication 1 → 2"),
        ("ttl: 90d", "ttl: 89d", "table raw_visits", "ttl "),
        (
            "ttl: 90d",
            "ttl: 90d, dedup_window: 500",
            "table raw_visits",
            "non_replicated_deduplication_window 100000 → 500",
        ),
        ("order_by: [page, at]", "order_by: [at, page]", "table raw_visits", "order_by (page, at) → (at, page)"),
        (
            "decimal(10,2)",
            "decimal(12,2)",
            "table raw_visits",
            "column spent Nullable(Decimal(10, 2)) → Nullable(Decimal(12, 2))",
        ),
        ('    - {name: spent, type: "decimal(10,2)"}\n', "", "table raw_visits", "drop column spent"),
        ("count()", "countIf(spent > 1)", "view visits_hourly_view", "the view's SELECT changes"),
        ("by: [page]", "by: []", "table visits_hourly", "drop column page"),
    ],
)
def test_what_would_lose_something_is_refused(place: Place, old: str, new: str, target: str, what: str) -> None:
    place.apply()
    place.write((old, new))
    found = place.refused()
    assert any(where.startswith(target) and text.startswith(what) for where, text in found), found


def test_a_renamed_table_is_a_new_one_and_the_old_stays(place: Place) -> None:
    place.apply()
    _rename = ("raw_visits", "raw_views")
    place.write(_rename)
    found = place.plan()
    assert [change.target for change in found.additive] == ["table raw_views"]
    assert [change.target for change in found.refused] == ["view visits_hourly_view"]
    assert place.clickhouse.scalar(f"EXISTS {place.database}.raw_visits") == 1


@pytest.mark.parametrize("cut", range(1, 12))
def test_an_apply_that_was_cut_short_is_completed_by_the_next(place: Place, cut: int) -> None:
    class Killed(Exception):
        pass

    left = [cut]

    def die(_: Additive) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    whole = place.plan()
    try:
        planning.apply(whole, place.kafka, place.clickhouse, ManualClock(), on_done=die)
    except Killed:
        rest = place.plan()
        assert len(rest.additive) == len(whole.additive) - cut
        place.apply()
    else:
        assert cut > len(whole.additive)
    assert place.plan().changes == ()


def test_statements_may_run_twice(place: Place) -> None:
    found = place.apply()
    for change in found.additive:
        for step in change.steps:
            if isinstance(step, Statement):
                place.clickhouse.command(step.sql)
    assert place.plan().changes == ()


def test_each_apply_is_recorded(place: Place) -> None:
    place.apply()
    place.write(("ttl: 90d", "ttl: 91d"))
    place.apply()
    rows = place.clickhouse.query(
        f"SELECT pipeline, schema_version, spec_hash, changes, applied_by FROM {place.database}.spec_applies "
        "WHERE pipeline = 'visits'"
    )
    hashes = {row[2] for row in rows}
    assert planning.spec_hash(place.specs()["visits"]) in hashes
    assert len(hashes) == len(rows) == 2
    assert any(
        json.loads(row[3]) == [{"target": "table raw_visits", "what": json.loads(row[3])[0]["what"]}] for row in rows
    )
    assert all(row[1] == 1 and "@" in row[4] for row in rows)


def test_the_command_asks_applies_and_tells_by_its_exit_code(place: Place) -> None:
    planned = place.cli("plan", "--json")
    assert planned.returncode == 0, planned.stderr
    assert len(json.loads(planned.stdout)["additive"]) > 5
    asked = place.cli("apply", "--no-input")
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    done = place.cli("apply", "--yes")
    assert done.returncode == 0, done.stderr
    assert "\x1b[" not in done.stdout
    again = place.cli("plan")
    assert (again.returncode, "Nothing to do" in again.stdout) == (0, True)
    place.write(("ttl: 90d", "ttl: 1d"))
    refused = place.cli("plan")
    assert refused.returncode == 3
    assert "by hand" in refused.stdout
    place.path.write_text("name: visits\nnmae: x\n", encoding="utf-8")
    assert place.cli("plan").returncode == 2
    wrong = place.cli("check", "--json", str(place.path))
    assert wrong.returncode == 2
    assert json.loads(wrong.stdout)[0]["where"].endswith("visits.yaml:1") or "visits.yaml:" in wrong.stdout
