"""`python -m devstack.demo`: exit 0 only when the ledger balances against the sender's own journal."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from devstack.demo.progress import Progress
from devstack.demo.run import Demo
from devstack.demo.summary import as_json, show
from devstack.stack import Stack, StackOptions
from tidewatch.errors import TidewatchError

# Of the tables where no terminal says how wide it is.
_WIDTH = 110


def main(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running until Ctrl-C.")] = False,
    seed: Annotated[int, typer.Option(help="Decides the events where there is no real data.")] = 1,
    brokers: Annotated[int, typer.Option(help="Kafka brokers: 1 or 3.")] = 1,
    as_lines: Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")] = False,
    directory: Annotated[Path, typer.Option(help="Where the stack keeps its data.")] = Path(".tidewatch/demo"),
) -> None:
    """Start the whole stack, send events, broken ones among them, and prove where each one ended."""
    console = Console(stderr=as_lines)
    if not console.is_terminal:
        console.width = _WIDTH
    data = os.environ.get("TIDEWATCH_DATA")
    progress = Progress(console)
    progress.say(f"events: {f'real, from {data}' if data else f'generated from seed {seed}'}")
    progress.say("starting Kafka, ClickHouse, Prometheus, the gateway, the loader and the relay")
    stopped = threading.Event()
    if keep:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
    try:
        with Stack(StackOptions(directory=directory, brokers=brokers, fresh=True)) as stack:
            try:
                outcome = Demo(stack, Path(data) if data else None, seed, progress).run()
            finally:
                progress.close()
            if as_lines:
                print(json.dumps(as_json(outcome)))
            else:
                show(console, outcome, stack, kept=keep)
            if keep:
                stopped.wait()
    except TidewatchError as error:
        console.print(
            f"[bold red]error[/]: {error.where} {error.what}\n  [bold]fix[/]: {error.fix}",
            soft_wrap=True,
            highlight=False,
        )
        sys.exit(error.exit_code)
    sys.exit(0 if outcome.proved else 3)


if __name__ == "__main__":
    typer.run(main)
