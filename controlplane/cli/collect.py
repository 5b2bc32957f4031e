"""`tidewatch collect`: the process that measures."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from collectors.base import Collector, Context, build, builders
from collectors.core.process import settle
from collectors.core.publication import Publication
from collectors.core.runner import Job, Runner
from tidewatch.clock import SystemClock
from tidewatch.settings import Settings, load_settings
from tidewatch.spec import load_all
from tidewatch.telemetry.exposition import Exposition
from tidewatch.telemetry.logs import configure_logs, get_logger
from tidewatch.telemetry.metrics import Registry
from tidewatch.telemetry.probes import Probes

log = get_logger(__name__)


def main(
    *,
    only: Annotated[list[str] | None, typer.Option("--only", help="This collector alone; may be repeated.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Print the collectors' names and end.")] = False,
) -> None:
    """Measure Kafka, ClickHouse and the rest until stopped, and expose it at /metrics."""
    if show:
        for name in builders():
            print(name)
        return
    settings = load_settings()
    configure_logs("collect", settings.telemetry)
    context = Context(settings, load_all(settings.pipelines))
    try:
        run(settings, build(context, only or ()))
    finally:
        context.close()


def run(settings: Settings, collectors: list[Collector]) -> None:
    """Until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    registry, clock = Registry("collect"), SystemClock()
    exposition = Exposition(registry)
    publication = Publication(registry, exposition)
    timeout = settings.collect.timeout_seconds
    runner = Runner([Job(each, publication, registry, clock, timeout) for each in collectors], clock)
    settle()
    runner.start()
    with Probes(settings.collect.host, settings.collect.port, exposition, runner.problems) as probes:
        log.info("collect.started", port=probes.port, collectors=[each.name for each in collectors])
        stop.wait()
    runner.stop()
    log.info("collect.stopped")
