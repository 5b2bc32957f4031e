"""`tidewatch`: one command; each group is a module beside this one that exposes `app`.

Exit codes: 0 ok, 1 failed, 2 wrong use or cancelled, 3 a check found a problem, 4 not provable or not permitted.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Annotated

import typer
from rich.console import Console

from controlplane import cli
from tidewatch import __version__
from tidewatch.errors import TidewatchError

# What is not a command group among the modules of this package.
_HELPERS = frozenset({"main", "output"})

app = typer.Typer(
    name="tidewatch",
    help="Operate event pipelines: HTTP → Kafka → ClickHouse, and prove that nothing was lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself stand before the group's name."""


def _mount() -> None:
    for name in sorted(module.name for module in pkgutil.iter_modules(cli.__path__)):
        if name in _HELPERS:
            continue
        group: typer.Typer = importlib.import_module(f"{cli.__name__}.{name}").app
        # A module with a single command, such as `tail`, is that command; the others are groups.
        single = (
            len(group.registered_commands) == 1 and group.registered_callback is None and not group.registered_groups
        )
        if single:
            command = group.registered_commands[0]
            app.command(name=command.name or name, help=command.help, context_settings=command.context_settings)(
                command.callback or _root
            )
        else:
            app.add_typer(group, name=name)


def main() -> None:
    """Run the command; a TidewatchError is shown as what happened and how to fix it, never as a traceback."""
    _mount()
    try:
        app()
    except TidewatchError as error:
        console = Console(stderr=True, highlight=False)
        place = f"{error.where}: " if error.where else ""
        console.print(f"[bold red]error[/]: {place}{error.what}", markup=True, soft_wrap=True)
        console.print(f"  [bold]fix[/]: {error.fix}", soft_wrap=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(2)


if __name__ == "__main__":
    main()
