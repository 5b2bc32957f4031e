"""`tidewatch ledger`: prove that nothing was lost or doubled."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from controlplane.ledger_view import show
from ingest.ledger.check import check as check_ledger
from ingest.ledger.ranges import RangeRecord, read_ranges
from ingest.ledger.sources import Sources, to_stderr
from ingest.ledger.window import Window, parse_time
from tidewatch.clickhouse import ClickHouse
from tidewatch.kafka.admin import KafkaAdmin
from tidewatch.settings import load_settings
from tidewatch.spec import Spec, load_all
from tidewatch.telemetry.logs import configure_logs

app = typer.Typer(help="Prove that every accepted event was loaded once, or dead-lettered once.", no_args_is_help=True)

Pipelines = Annotated[list[str] | None, typer.Option("--pipeline", "-p", help="Only this one; may be given again.")]
From = Annotated[str | None, typer.Option("--from", help="Broker append time: 10m, yesterday 02:00, or RFC 3339.")]
To = Annotated[str | None, typer.Option("--to", help="The end of the window, exclusive.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the whole report, with its receipt.")]


@app.command()
def check(*, pipeline: Pipelines = None, since: From = None, until: To = None, as_json: AsJson = False) -> None:
    """Compare the log, the rows and the dead letters by offset. Exit 0 balanced, 3 not balanced, 4 not provable."""
    settings = load_settings()
    configure_logs("ledger", settings.telemetry)
    now = datetime.now(UTC)
    window = _window(since, until, now)
    specs = _chosen(pipeline)
    with Sources.open(settings, progress=to_stderr) as sources:
        report = check_ledger(window, specs, sources, now)
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        show(report, Console(highlight=False))
    raise typer.Exit(report.exit_code)


@app.command()
def ranges(*, pipeline: Pipelines = None, since: From = None, until: To = None, as_json: AsJson = False) -> None:
    """List the range records: what the loaders did with each range of offsets."""
    settings = load_settings()
    window = _window(since, until, datetime.now(UTC))
    bounds = [int(time.timestamp() * 1000) if time else None for time in (window.since, window.until)]
    since_ms, until_ms = bounds[0] or 0, bounds[1] or 1 << 62
    specs = _chosen(pipeline)
    found: list[RangeRecord] = []
    with KafkaAdmin(settings.kafka) as admin, ClickHouse(settings.clickhouse) as clickhouse:
        for topic in admin.topics([spec.topic.name for spec in specs]).values():
            found += read_ranges(clickhouse, topic.topic_id, since_ms, until_ms)
    if as_json:
        for record in found:
            print(json.dumps({name: _plain(getattr(record, name)) for name in record.__slots__}))
        return
    table = Table("topic", "partition", "first", "last", "seen", "loaded", "dead", "expired", "appended", "written")
    for r in found:
        counts = (r.first, r.last, r.seen, r.loaded, r.dead, r.expired)
        appended = datetime.fromtimestamp(r.min_appended_ms / 1000, UTC)
        times = (f"{appended:%Y-%m-%d %H:%M:%S}", f"{r.written_at:%Y-%m-%d %H:%M:%S}")
        table.add_row(r.topic, str(r.partition), *(f"{count:,}" for count in counts), *times)
    Console().print(table)


def _window(since: str | None, until: str | None, now: datetime) -> Window:
    return Window(parse_time(since, now) if since else None, parse_time(until, now) if until else None)


def _chosen(pipelines: list[str] | None) -> list[Spec]:
    specs = load_all(load_settings().pipelines)
    return [specs.require(name) for name in pipelines] if pipelines else list(specs.values())


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
