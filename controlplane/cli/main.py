"""`tidewatch`: one command; each module beside this one is a group (`app`) or a command (`main`).

Exit codes: 0 ok, 1 failed, 2 wrong use or cancelled, 3 a check found a problem, 4 not provable or not permitted.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from controlplane import cli
from devstack.state import local_environment
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


def _mount(wanted: str) -> None:
    """Import the command that is wanted, and all only when it is none: services need not carry each other's memory."""
    names = sorted({module.name for module in pkgutil.iter_modules(cli.__path__)} - _HELPERS)
    for name in [wanted] if wanted in names else names:
        module = importlib.import_module(f"{cli.__name__}.{name}")
        # A module with a function `main`, such as tail.py, is a command; the others are groups.
        if command := getattr(module, "main", None):
            app.command(name=name)(command)
        else:
            app.add_typer(module.app, name=name)


def main() -> None:
    """Run the command; a TidewatchError is shown as what happened and how to fix it, never as a traceback.

    So is a file that the system does not let us have.
    """
    _mount(sys.argv[1] if len(sys.argv) > 1 else "")
    # Commands without logs of their own leave it to their errors to say what the libraries met.
    logging.getLogger().addHandler(logging.NullHandler())
    # With no other system named in the environment, commands find the local stack that runs in this directory.
    os.environ.update(local_environment(os.environ))
    try:
        app()
    except TidewatchError as error:
        place = f"{error.where}: " if error.where else ""
        _show(place + error.what, error.fix)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        _show(f"{error.filename}: {error.strerror}", "check the path and its permissions, or name another")
        sys.exit(TidewatchError.exit_code)


def _show(what: str, fix: str) -> None:
    console = Console(stderr=True, highlight=False)
    # Escaped, because a message may quote what somebody sent.
    console.print(f"[bold red]error[/]: {escape(what)}", soft_wrap=True)
    console.print(f"  [bold]fix[/]: {escape(fix)}", soft_wrap=True)


if __name__ == "__main__":
    main()
