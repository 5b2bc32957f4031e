"""`tidewatch key`: API keys of the gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ingest.gateway import keys
from tidewatch.settings import load_settings
from tidewatch.spec import load_all

app = typer.Typer(help="API keys of the gateway, by project. Only their hashes are kept.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
File = Annotated[Path | None, typer.Option("--file", help="The keys file; the settings' own when it is not given.")]


@app.command()
def create(
    *,
    project: Annotated[str, typer.Option(help="Whose events the key sends; lower-case letters, digits, - and _.")],
    pipeline: Annotated[
        list[str] | None, typer.Option(help="A pipeline that the key may send to; all without.")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="events=60000/1m or requests=100/s; replaces the project's limits.")
    ] = None,
    note: Annotated[str, typer.Option(help="For whom or what the key is.")] = "",
    file: File = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: it cannot be shown again."""
    settings = load_settings()
    if pipeline:
        specs = load_all(settings.pipelines)
        for name in pipeline:
            specs.require(name)
    path = file or settings.gateway.keys_file
    key, key_id = keys.create(path, project, pipelines=tuple(pipeline or ()), limits=tuple(limit or ()), note=note)
    if as_json:
        print(json.dumps({"key": key, "id": key_id, "project": project}))
        return
    print(key)
    Console(stderr=True, highlight=False).print(
        f"key {key_id} of project {project}, stored as a hash in {path}. Keep it now: it is not shown again."
    )


@app.command("list")
def list_(*, file: File = None, as_json: AsJson = False) -> None:
    """The keys' ids, projects and limits; never the keys."""
    stored = keys.read(file or load_settings().gateway.keys_file)
    rows = [
        {
            "id": key.id,
            "project": project,
            "pipelines": list(key.pipelines) if key.pipelines is not None else None,
            "limits": list(entry.limits),
            "note": key.note,
            "created_at": key.created_at,
        }
        for project, entry in stored.projects.items()
        for key in entry.keys
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("id", "project", "pipelines", "limits", "note", "created")
    for row in rows:
        allowed = "all" if row["pipelines"] is None else " ".join(map(str, row["pipelines"] or []))
        limits = " ".join(map(str, row["limits"] or [])) or "none"
        table.add_row(str(row["id"]), str(row["project"]), allowed, limits, str(row["note"]), str(row["created_at"]))
    Console().print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `tidewatch key list` shows it.")], *, file: File = None
) -> None:
    """Make a key invalid. Gateways notice within a second or two."""
    project = keys.revoke(file or load_settings().gateway.keys_file, key_id)
    print(f"revoked {key_id} of project {project}")
