"""`tidewatch gateway`: take events over HTTP."""

from __future__ import annotations

from ingest.gateway.server import run_gateway
from tidewatch.settings import load_settings
from tidewatch.spec import load_all
from tidewatch.telemetry.logs import configure_logs


def main() -> None:
    """Take events over HTTP and answer once Kafka has acknowledged them. Drains and ends on SIGTERM."""
    settings = load_settings()
    configure_logs("gateway", settings.telemetry)
    run_gateway(settings, load_all(settings.pipelines))
