"""What the terminal shows of a report."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.console import Console

from controlplane.ledger_view import show
from ingest.ledger.report import PipelineReport, Report, Stretch


def shown(pipeline: PipelineReport) -> str:
    out = io.StringIO()
    show(Report(datetime(2026, 1, 1, tzinfo=UTC), None, None, [pipeline]), Console(file=out, width=200))
    return next(line for line in out.getvalue().splitlines() if line.startswith("clicks"))


def test_what_could_not_be_read_is_no_zero() -> None:
    away = PipelineReport("clicks", "raw.clicks.v1")
    away.unprovable("Kafka cannot be read: it does not answer")
    assert "–" in shown(away)
    assert " 0" not in shown(away)


def test_an_empty_topic_that_was_read_has_zeros() -> None:
    read = PipelineReport("clicks", "raw.clicks.v1", stretches=[Stretch(0, 0, 0, 0, 0, None)])
    assert "–" not in shown(read)
    assert " 0" in shown(read)
