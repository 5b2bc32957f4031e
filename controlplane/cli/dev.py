"""`tidewatch dev`: the whole system on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from devstack import health, logs, parts, state
from devstack.parts import COMMAND, StackOptions
from devstack.process import ProcessError
from devstack.stack import Stack
from tidewatch.errors import Refused, UsageError

app = typer.Typer(help="Run the whole system on this machine: Kafka, ClickHouse, Prometheus, gateway, loaders.")
console = Console(highlight=False, soft_wrap=True)

UP_SECONDS, DOWN_SECONDS = 300.0, 120.0
UNHEALTHY = 3

Directory = Annotated[Path, typer.Option("--directory", help="Where its data, ports, keys and logs are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def up(
    *,
    brokers: Annotated[int, typer.Option(help="1, or 3 for a replicated Kafka.")] = 1,
    loaders: Annotated[int, typer.Option(min=1, max=16, help="Loader processes.")] = 1,
    postgres: Annotated[bool, typer.Option("--postgres", help="Keep the store in PostgreSQL, not SQLite.")] = False,
    prometheus: Annotated[bool, typer.Option(help="Run Prometheus too.")] = True,
    pipelines: Annotated[Path, typer.Option(help="The directory of specs.")] = Path("pipelines"),
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running in the background.")] = False,
    directory: Directory = state.DIRECTORY,
) -> None:
    """Start everything and show its log until Ctrl-C; what it keeps in its directory is there the next time."""
    if brokers not in {1, 3}:
        raise UsageError(f"{brokers} brokers cannot be had", fix="use --brokers 1 or --brokers 3")
    options = StackOptions(
        directory, brokers=brokers, loaders=loaders, postgres=postgres, prometheus=prometheus, pipelines=pipelines
    )
    if detach:
        _in_background(options)
    else:
        _in_foreground(options)


@app.command()
def status(*, directory: Directory = state.DIRECTORY, as_json: Json = False) -> None:
    """Each service with its state, asked now. Exit 3 when one is not well, or nothing runs."""
    found = state.read(directory)
    services = [] if found is None else [_asked(service) for service in found.services]
    ready = found is not None and found.ready
    if as_json:
        print(json.dumps({"running": found is not None, "ready": ready, "services": services}, indent=2))
    elif found is None:
        console.print("no local stack runs here; start one with [bold]tidewatch dev up[/]")
    else:
        console.print(_table(services))
    if not ready or not all(service["healthy"] for service in services):
        raise typer.Exit(UNHEALTHY)


@app.command(name="logs")
def show_logs(
    services: Annotated[list[str] | None, typer.Argument(help="Only these; all when none is named.")] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines to begin with.")] = 50,
    directory: Directory = state.DIRECTORY,
) -> None:
    """The merged log of all services, also of a stack that has stopped."""
    merged = state.merged_log(directory)
    if not merged.exists():
        raise UsageError("there is no log", where=str(merged), fix="start a stack with `tidewatch dev up`")
    known = sorted(path.stem for path in merged.parent.glob("*.log") if path != merged)
    wanted = frozenset(services or [])
    if unknown := sorted(wanted - {*known, logs.STACK}):
        raise UsageError(f"there is no service {', '.join(unknown)}", fix=f"choose among {', '.join(known)}")
    for line in logs.last(merged, lines, wanted):
        console.print(logs.render(line, known))
    if follow:
        for line in logs.follow(merged, threading.Event(), wanted):
            console.print(logs.render(line, known))


@app.command()
def down(
    *,
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove its data, keys and logs too.")] = False,
    directory: Directory = state.DIRECTORY,
) -> None:
    """Stop everything in order: the gateway drains first."""
    found = state.read(directory)
    if found is not None:
        os.kill(found.pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_SECONDS
        while state.is_running(directory):
            if time.monotonic() > deadline:
                raise ProcessError(f"process {found.pid} does not end", fix=f"kill -9 {found.pid}; nothing outlives it")
            time.sleep(0.1)
    elif state.is_running(directory):
        raise Refused("the stack is just starting", fix="try again in a moment")
    console.print("no local stack runs here" if found is None else "stopped")
    if wipe:
        parts.wipe(directory)
        console.print(f"removed what it kept in {directory}")


def _in_foreground(options: StackOptions) -> None:
    # They all end it as Ctrl-C does; SIGINT, too, which a shell makes its background jobs ignore.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if state.is_running(options.directory):
        running = state.running(options.directory)
        raise Refused(f"a local stack runs here already, as process {running.pid}", fix="`tidewatch dev down` stops it")
    over = threading.Event()
    stack = Stack(options)
    printer = threading.Thread(target=_print_log, args=(stack, over), daemon=True)
    stack.merged_log.parent.mkdir(parents=True, exist_ok=True)
    printer.start()
    try:
        with stack:
            _summary(stack)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        over.set()
        printer.join()


def _print_log(stack: Stack, over: threading.Event) -> None:
    for line in logs.follow(stack.merged_log, over):
        console.print(logs.render(line, stack.service_names))


def _in_background(options: StackOptions) -> None:
    if state.is_running(options.directory):
        raise Refused("a local stack runs here already", fix="`tidewatch dev down` stops it")
    output = options.directory / "logs" / "up.out"
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as out:
        child = subprocess.Popen(
            [*COMMAND, "dev", "up", *_arguments(options)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    deadline = time.monotonic() + UP_SECONDS
    while (found := state.read(options.directory)) is None or not found.ready:
        if child.poll() is not None or time.monotonic() > deadline:
            said = output.read_text(errors="replace")[-4000:]
            raise ProcessError(f"the stack did not come up:\n{said}\n", where=str(output), fix="see what it said above")
        time.sleep(0.1)
    print(f"running in the background as process {found.pid}")
    _places(found.urls, options.directory)


def _arguments(options: StackOptions) -> list[str]:
    arguments = ["--brokers", str(options.brokers), "--loaders", str(options.loaders)]
    arguments += ["--pipelines", str(options.pipelines), "--directory", str(options.directory)]
    arguments += ["--postgres"] if options.postgres else []
    return [*arguments, "--prometheus" if options.prometheus else "--no-prometheus"]


def _summary(stack: Stack) -> None:
    console.print("\n[bold green]ready[/]", end="  ")
    _places(stack.parts.urls, stack.options.directory)
    console.print("[dim]Ctrl-C stops everything[/]\n")


def _places(urls: Mapping[str, str], directory: Path) -> None:
    console.print("  ".join(f"[bold]{name}[/] {url}" for name, url in urls.items()))
    console.print(f"API docs {urls['gateway']}/docs · key in {state.api_key_file(directory)} · next:")
    console.print("  tidewatch tail raw.clicks.v1     tidewatch ledger check     tidewatch dev status")


def _asked(service: state.ServiceState) -> dict[str, Any]:
    healthy = service.state == "running" and health.ready(service.health)
    return {**service.model_dump(mode="json"), "healthy": healthy}


def _table(services: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("service", "state", "process", "restarts", "since", "address"):
        table.add_column(heading)
    for service in services:
        colour, mark, word = _verdict(service)
        since = str(service["since"] or "")[11:19]
        cells = [f"{service['pid'] or ''}", f"{service['restarts'] or ''}", since, service["address"]]
        table.add_row(service["name"], f"[{colour}]{mark} {word}[/]", *cells)
    return table


def _verdict(service: dict[str, Any]) -> tuple[str, str, str]:
    if service["healthy"]:
        return "green", "●", "ready"
    if service["state"] == "running":
        return "red", "✗", "not ready"
    return (
        ("yellow", "◌", service["state"]) if service["state"] in {"starting", "restarting"} else ("dim", "○", "stopped")
    )
