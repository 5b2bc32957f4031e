"""The terms before the log: what the gateways counted, and what the outbox holds."""

from __future__ import annotations

from sqlalchemy import Engine

from ingest.ledger.report import PipelineReport
from ingest.ledger.spans import Span
from ingest.ledger.window import Window
from ingest.outbox.claims import depth
from tidewatch.clickhouse import ClickHouse
from tidewatch.errors import ClickHouseError, StoreError

_UNKNOWN_TABLE = 60
_BY_OUTCOME = """
SELECT outcome, sum(events) FROM gateway_accounting
WHERE pipeline = {pipeline:String}
    AND `second` >= {since:DateTime64(6, 'UTC')} AND `second` < {until:DateTime64(6, 'UTC')}
GROUP BY outcome ORDER BY outcome
"""
_FIRST, _LAST = "1970-01-01 00:00:00", "2200-01-01 00:00:00"


def gateway_terms(clickhouse: ClickHouse, pipeline: str, window: Window) -> dict[str, int] | None:
    """Events by outcome, and `offered` as their sum; None where no gateway has counted."""
    parameters = {
        "pipeline": pipeline,
        "since": window.since or _FIRST,
        "until": window.until or _LAST,
    }
    try:
        found = {outcome: int(events) for outcome, events in clickhouse.query(_BY_OUTCOME, parameters)}
    except ClickHouseError as error:
        if error.code != _UNKNOWN_TABLE:
            raise
        return None
    return {"offered": sum(found.values())} | found if found else None


def outbox_terms(engine: Engine, report: PipelineReport) -> None:
    """Committed = emitted + waiting, over the whole life of the store: no window applies."""
    try:
        found = depth(engine, report.pipeline)
    except StoreError as error:
        report.unprovable(f"the SQL store cannot be read: {error.what}")
        return
    report.outbox = {"committed": found.committed, "emitted": found.emitted, "waiting": found.waiting}
    missing = found.committed - found.emitted - found.waiting
    if missing:
        detail = f"{found.committed:,} committed, {found.emitted:,} emitted, {found.waiting:,} waiting"
        report.find("outbox_mismatch", Span(-1, -1, -1, abs(missing), 0), detail)
