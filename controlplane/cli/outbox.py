"""`tidewatch outbox`: the relay, and how far it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import inspect

from ingest.outbox.claims import Depth, depth
from ingest.outbox.service import outbox_pipelines, run_relay
from ingest.outbox.tables import outbox
from tidewatch.errors import UsageError
from tidewatch.settings import load_settings
from tidewatch.spec import load_all
from tidewatch.sql import open_store, translated
from tidewatch.telemetry.logs import configure_logs

app = typer.Typer(help="Database-first pipelines: rows of the SQL store on their way to Kafka.", no_args_is_help=True)


@app.command()
def relay() -> None:
    """Emit committed rows to Kafka, exactly once, until stopped. A relay that starts later takes over."""
    settings = load_settings()
    configure_logs("outbox-relay", settings.telemetry)
    run_relay(settings, outbox_pipelines(load_all(settings.pipelines)))


@app.command()
def status(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object by pipeline.")] = False
) -> None:
    """Rows committed, emitted and waiting, of each pipeline that has an outbox."""
    settings = load_settings()
    engine = open_store(settings.store)
    with translated("looking for the outbox"):
        exists = inspect(engine).has_table(outbox.name)
    if not exists:
        # Zeros from a store that is not the one would say that all is well.
        raise UsageError(
            "the store holds no outbox",
            where=engine.url.render_as_string(hide_password=True),
            fix="check TIDEWATCH_STORE__URL; the gateway and the relay make the tables when they start",
        )
    found = {spec.name: depth(engine, spec.name) for spec in outbox_pipelines(load_all(settings.pipelines))}
    engine.dispose()
    now = datetime.now(UTC)
    if as_json:
        print(json.dumps({name: _fields(depths, now) for name, depths in found.items()}, indent=2))
        return
    table = Table("pipeline", "committed", "emitted", "waiting", "oldest waiting")
    for name, depths in found.items():
        age = _fields(depths, now)["oldest_waiting_seconds"]
        counts = (f"{depths.committed:,}", f"{depths.emitted:,}", f"{depths.waiting:,}")
        table.add_row(name, *counts, "–" if age is None else f"{age:.1f} s")
    Console().print(table)


def _fields(depths: Depth, now: datetime) -> dict[str, int | float | None]:
    oldest = depths.oldest_waiting
    return {
        "committed": depths.committed,
        "emitted": depths.emitted,
        "waiting": depths.waiting,
        "oldest_waiting_seconds": round((now - oldest).total_seconds(), 3) if oldest is not None else None,
    }
