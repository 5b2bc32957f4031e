"""`tidewatch spec`: check the pipeline specs, show how they differ from what is live, and make it so."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ingest.schema.changes import Additive, Refused
from ingest.schema.plan import Plan
from ingest.schema.plan import apply as make
from ingest.schema.plan import plan as compare
from tidewatch.clickhouse import ClickHouse
from tidewatch.clock import SystemClock
from tidewatch.errors import SpecError, UsageError
from tidewatch.kafka.admin import KafkaAdmin
from tidewatch.settings import Settings, load_settings
from tidewatch.spec import Spec, Specs, json_schema, load, load_all

app = typer.Typer(help="Check pipeline specs, compare them with what is live, and apply them.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
HAS_REFUSED = 3


@app.command()
def check(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Specs, or directories of them; TIDEWATCH_PIPELINES otherwise.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Read specs without touching Kafka or ClickHouse. Exit 2 when one is wrong."""
    results = [result for path in paths or [load_settings().pipelines] for result in _checked(path)]
    if as_json:
        print(json.dumps([_plain(*result) for result in results], ensure_ascii=False))
    else:
        for where, outcome in results:
            _show_checked(where, outcome)
    if any(isinstance(outcome, SpecError) for _, outcome in results):
        raise typer.Exit(SpecError.exit_code)


@app.command()
def plan(*, as_json: Json = False) -> None:
    """Show what would change in Kafka and ClickHouse. Exit 3 when a change is refused."""
    with _connected() as (specs, kafka, clickhouse):
        found = compare(specs, kafka, clickhouse)
    _show(found, as_json=as_json)
    _exit_for(found)


@app.command()
def apply(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    no_input: Annotated[bool, typer.Option("--no-input", help="Fail rather than ask.")] = False,
    as_json: Json = False,
) -> None:
    """Make the additive changes. Exit 3 when others were refused; those are left as they are."""
    with _connected() as (specs, kafka, clickhouse):
        found = compare(specs, kafka, clickhouse)
        if not as_json:
            _show(found, as_json=False)
        if found.additive:
            _confirm(len(found.additive), yes=yes, may_ask=not (no_input or as_json))
            make(found, kafka, clickhouse, SystemClock(), on_done=lambda change: _show_done(change, quiet=as_json))
    if as_json:
        print(json.dumps(found.as_json() | {"applied": len(found.additive)}, ensure_ascii=False))
    _exit_for(found)


@app.command()
def schema(
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it there instead.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="On one line.")] = False,
) -> None:
    """The JSON Schema with which editors complete and check a spec."""
    text = json.dumps(json_schema(), indent=None if as_json else 2, ensure_ascii=False)
    if output is None:
        print(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error}", fix="name a file in a directory you own") from error


@contextmanager
def _connected() -> Iterator[tuple[Specs, KafkaAdmin, ClickHouse]]:
    settings: Settings = load_settings()
    specs = load_all(settings.pipelines)
    # The database of the settings may be about to be created, so the session stands in another.
    with KafkaAdmin(settings.kafka) as kafka, ClickHouse(settings.clickhouse, database="default") as clickhouse:
        yield specs, kafka, clickhouse


def _confirm(changes: int, *, yes: bool, may_ask: bool) -> None:
    if yes:
        return
    if not may_ask or not sys.stdin.isatty():
        raise UsageError("nobody can be asked", fix="read `tidewatch spec plan`, then run `tidewatch spec apply --yes`")
    typer.confirm(f"Make {changes} {'change' if changes == 1 else 'changes'}?", abort=True)


def _exit_for(found: Plan) -> None:
    if found.refused:
        raise typer.Exit(HAS_REFUSED)


def _show(found: Plan, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
        return
    if not found.changes:
        console.print(f"Nothing to do: what is live is what {len(found.specs)} specs say.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "pipeline", "target", "change"):
        table.add_column(column, overflow="fold")
    for change in found.changes:
        sign = "[green]+[/]" if isinstance(change, Additive) else "[red]x[/]"
        table.add_row(sign, change.pipeline, change.target, _detail(change))
    console.print(table)
    console.print(f"{len(found.additive)} to make, {len(found.refused)} refused.")


def _detail(change: Additive | Refused) -> str:
    text = escape(change.what)
    if isinstance(change, Refused):
        return f"{text}\n[red]refused[/]: {escape(change.reason)}\n[bold]by hand[/]: {escape(change.manual)}"
    return f"{text}\n[dim]{escape(change.note)}[/]" if change.note else text


def _show_done(change: Additive, *, quiet: bool) -> None:
    if not quiet:
        console.print(f"[green]done[/] {escape(change.target)}: {escape(change.what)}")


def _checked(path: Path) -> Iterator[tuple[str, Spec | SpecError]]:
    """Each spec of `path`, or what is wrong with it; for a directory also what its specs take from one another."""
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    outcomes: list[tuple[str, Spec | SpecError]] = []
    for file in files:
        try:
            outcomes.append((str(file), load(file)))
        except SpecError as error:
            outcomes.append((str(file), error))
    if path.is_dir() and all(isinstance(outcome, Spec) for _, outcome in outcomes):
        try:
            load_all(path)
        except SpecError as error:
            outcomes.append((str(path), error))
    yield from outcomes


def _show_checked(where: str, outcome: Spec | SpecError) -> None:
    if isinstance(outcome, Spec):
        fields = len(outcome.schema_.fields)
        console.print(f"[green]ok[/] {escape(where)}: {outcome.name}, {fields} fields, table {outcome.table.name}")
        return
    console.print(f"[bold red]wrong[/] {escape(outcome.where or where)}: {escape(outcome.what)}")
    console.print(f"  [bold]fix[/]: {escape(outcome.fix)}")


def _plain(path: str, outcome: Spec | SpecError) -> dict[str, Any]:
    if isinstance(outcome, Spec):
        return {"path": path, "ok": True, "pipeline": outcome.name}
    return {"path": path, "ok": False, "error": outcome.what, "where": outcome.where, "fix": outcome.fix}
