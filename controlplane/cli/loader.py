"""`tidewatch loader`: Kafka → ClickHouse, exactly once."""

from __future__ import annotations

from typing import Annotated

import typer

from ingest.loader.service import run_loader
from tidewatch.errors import UsageError
from tidewatch.settings import load_settings
from tidewatch.spec import load_all
from tidewatch.telemetry.logs import configure_logs


def main(
    pipeline: Annotated[
        list[str] | None,
        typer.Option("--pipeline", "-p", help="Load this one; may be repeated. Without it all are loaded."),
    ] = None,
) -> None:
    """Load topics and their dead letters into ClickHouse, exactly once, until stopped."""
    settings = load_settings()
    configure_logs("loader", settings.telemetry)
    specs = load_all(settings.pipelines)
    unknown = sorted(set(pipeline or ()) - set(specs))
    if unknown:
        raise UsageError(f"there is no pipeline {unknown[0]}", fix=f"choose among {', '.join(sorted(specs))}")
    run_loader(settings, [spec for name, spec in specs.items() if not pipeline or name in pipeline])
