"""The terms of a database-first pipeline: committed = emitted + waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import delete

from ingest.ledger.report import Verdict
from ingest.outbox.claims import SqlClaims
from ingest.outbox.store import SqlOutbox
from ingest.outbox.tables import outbox
from tests.e2e.ledger_stage import LedgerStage, envelope, found, ledger_stage
from tidewatch.clock import SystemClock
from tidewatch.settings import Store
from tidewatch.sql import open_store
from tidewatch.telemetry.metrics import Registry


@pytest.fixture
def stage(kafka: Any, clickhouse: Any, tmp_path: Path, fresh: str) -> Iterator[LedgerStage]:
    with ledger_stage(kafka, clickhouse, tmp_path, fresh, spec="orders") as made:
        store = Store(url=SecretStr(f"sqlite:///{tmp_path}/store.db"))
        made.settings = made.settings.model_copy(update={"store": store})
        yield made


def accept(stage: LedgerStage, count: int) -> None:
    async def run() -> None:
        engine = open_store(stage.settings.store)
        store = SqlOutbox(engine, Registry("test"))
        await asyncio.gather(
            *(store.accept(stage.spec, "shop", f"o{i}", b"{}", envelope(f"o{i}"), None) for i in range(count))
        )
        await store.close()
        engine.dispose()

    asyncio.run(run())


def test_a_check_makes_no_store_where_there_is_none(stage: LedgerStage, tmp_path: Path) -> None:
    store = Store(url=SecretStr(f"sqlite:///{tmp_path}/nowhere/store.db"))
    stage.settings = stage.settings.model_copy(update={"store": store})
    report = stage.check()
    assert (report.verdict, "SQL store" in report.why) == (Verdict.NOT_PROVABLE, True)
    assert not (tmp_path / "nowhere").exists()


def test_committed_is_emitted_and_waiting_until_a_row_disappears(stage: LedgerStage) -> None:
    accept(stage, 5)
    engine = open_store(stage.settings.store)
    claims = SqlClaims(engine, "orders", "test", SystemClock(), max_rows=3)
    claims.take_over()
    batch = claims.claim(0)
    assert batch is not None
    claims.mark_sent(batch)
    report = stage.check()
    assert (report.verdict, report.outbox) == (
        Verdict.BALANCED,
        {"committed": 5, "emitted": 3, "waiting": 2},
    )
    with engine.begin() as connection:
        connection.execute(delete(outbox).where(outbox.c.event_id == "o4"))
    engine.dispose()
    report = stage.check()
    assert found(report) == [("outbox_mismatch", -1, -1, -1, 1)]


def test_a_store_that_cannot_be_read_leaves_the_pipeline_unproved(stage: LedgerStage) -> None:
    away = Store(url=SecretStr("postgresql+psycopg://nobody@127.0.0.1:1/nothing"))
    stage.settings = stage.settings.model_copy(update={"store": away})
    report = stage.check()
    assert (report.verdict, "SQL store" in report.why) == (Verdict.NOT_PROVABLE, True)
