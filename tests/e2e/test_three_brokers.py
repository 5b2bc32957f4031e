"""Three brokers, each killed in turn while events are accepted: what was promised is loaded once, and proved."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from recount import recount
from steady_clients import Journal, SteadyClients

from devstack.stack import Stack, StackOptions
from ingest.ledger.check import check
from ingest.ledger.sources import Sources
from ingest.ledger.window import Window
from ingest.outbox.claims import depth
from tidewatch.clickhouse import ClickHouse
from tidewatch.kafka.admin import KafkaAdmin
from tidewatch.settings import Settings, load_settings
from tidewatch.spec import Specs, load_all
from tidewatch.sql import open_store

PIPELINES = Path(__file__).parents[2] / "pipelines"
LOAD_SECONDS = 180.0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(StackOptions(tmp_path / "stack", brokers=3, prometheus=False, pipelines=PIPELINES)) as stack:
        yield stack


@pytest.mark.timeout(900)
def test_everything_promised_is_loaded_once_while_each_broker_is_killed(stack: Stack) -> None:
    settings = load_settings(stack.environment)
    specs = load_all(settings.pipelines)
    assert_replicated(settings, specs)
    clients = SteadyClients(stack)
    clients.wait_for_more(clicks=200, orders=10)
    for number in range(3):
        broker = stack.service(f"kafka-{number}")
        broker.kill()
        broker.stop()  # or the supervisor brings it back at once
        assert not broker.running
        clients.wait_for_more(clicks=400, orders=20)
        broker.start()
        stack.kafka.wait_in_sync(180)
    clients.wait_for_more(clicks=200, orders=10)
    journal = clients.stop()
    with ClickHouse(settings.clickhouse) as clickhouse:
        wait_until_loaded(settings, specs)
        for pipeline, answered in journal.answered.items():
            assert_kept(clickhouse, pipeline, answered, journal)
            assert recount(settings.kafka.bootstrap, clickhouse, specs[pipeline]) == []
    balanced = stack.tidewatch("ledger", "check", "--json")
    assert balanced.returncode == 0, balanced.stdout + balanced.stderr
    told = json.loads(balanced.stdout)
    terms = {report["pipeline"]: report["terms"] for report in told["pipelines"]}
    assert told["verdict"] == "balanced"
    assert terms["orders"]["accepted"] == len(journal.answered["orders"])
    assert terms["clicks"]["accepted"] >= len(journal.answered["clicks"])


def assert_replicated(settings: Settings, specs: Specs) -> None:
    """As `replication: auto` and `min_insync: auto` say for three brokers."""
    with KafkaAdmin(settings.kafka) as admin:
        names = [name for spec in specs.values() for name in (spec.topic.name, spec.dead_letters.topic)]
        topics = admin.topics(names)
    assert set(topics) == set(names)
    assert {(topic.replication, topic.configs["min.insync.replicas"]) for topic in topics.values()} == {(3, "2")}


def wait_until_loaded(settings: Settings, specs: Specs) -> None:
    """All that is in Kafka, promised or not, and all that waits in the outbox."""
    engine = open_store(settings.store)
    deadline = time.monotonic() + LOAD_SECONDS
    with Sources.open(settings) as sources:
        while True:
            waiting = depth(engine, "orders").waiting
            reports = check(Window(), specs.values(), sources, datetime.now(UTC)).pipelines
            pending = {report.pipeline: report.terms.pending + report.terms.letters_pending for report in reports}
            if not waiting and not any(pending.values()):
                break
            assert time.monotonic() < deadline, (waiting, pending)
            time.sleep(0.5)
    engine.dispose()


def landed(clickhouse: ClickHouse, pipeline: str) -> Counter[str]:
    return Counter(event_id for (event_id,) in clickhouse.query(f"SELECT _event_id FROM raw_{pipeline}"))


def assert_kept(clickhouse: ClickHouse, pipeline: str, answered: list[str], journal: Journal) -> None:
    found = landed(clickhouse, pipeline)
    assert len(set(answered)) == len(answered) > 0, f"{pipeline}: an id was answered twice"
    assert set(answered) <= found.keys(), f"{pipeline}: {len(set(answered) - found.keys())} promised events are lost"
    assert [event_id for event_id, rows in found.items() if rows != 1] == []
    # What was sent and refused may have landed all the same; nothing else is there.
    assert len(found) <= journal.offered[pipeline]
    if pipeline == "orders":
        assert set(answered) == found.keys()
