"""What the real loader leaves behind is what the ledger proves: rows, letters and range records."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from loader_rig import Rig

from ingest.ledger.check import check
from ingest.ledger.report import PipelineReport, Verdict
from ingest.ledger.sources import Sources
from ingest.ledger.window import Window
from tidewatch.kafka.admin import LATEST, Partition
from tidewatch.settings import ClickHouse, Kafka, Settings


@pytest.fixture
def rig(kafka: Any, clickhouse: Any, fresh: str, tmp_path: Path) -> Iterator[Rig]:
    with Rig(kafka.bootstrap, clickhouse.url, fresh, tmp_path, partitions=2) as made:
        yield made


def ledger(rig: Rig) -> PipelineReport:
    settings = Settings(kafka=Kafka(bootstrap=rig.bootstrap), clickhouse=ClickHouse(url=rig.url, database=rig.database))
    with Sources.open(settings) as sources:
        (report,) = check(Window(), [rig.spec], sources, datetime.now(UTC)).pipelines
    return report


def test_loaded_dead_lettered_and_still_provable_after_retention(rig: Rig) -> None:
    rig.loader().start()
    rig.send(4000, bad=lambda n: n % 500 == 7)
    rig.settled()
    rig.wait(lambda: ledger(rig).terms.letters_pending == 0, why="the letters are loaded")
    rig.stop()
    before = ledger(rig)
    assert (before.verdict, before.findings, before.not_provable) == (Verdict.BALANCED, [], [])
    assert (before.terms.accepted, before.terms.dead_lettered["loader"]) == (4000, 8)
    ends = rig.admin.offsets([Partition(rig.topic, p) for p in range(2)], LATEST)
    rig.admin.delete_records({where: end for where, end in ends.items() if end})
    after = ledger(rig)
    assert (after.verdict, after.findings, after.not_provable) == (Verdict.BALANCED, [], [])
    assert (after.terms.accepted, after.terms.loaded, after.terms.dead_lettered) == (
        before.terms.accepted,
        before.terms.loaded,
        before.terms.dead_lettered,
    )
    rig.clickhouse.command(
        "DELETE FROM raw_clicks WHERE _partition = 1 AND _offset = 100", settings={"mutations_sync": 2}
    )
    (finding,) = ledger(rig).findings
    assert (finding.kind, finding.partition, finding.first, finding.last) == ("gap", 1, 100, 100)
