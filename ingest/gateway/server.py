"""The process: uvicorn on uvloop, its signals, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Generator
from functools import partial

import uvicorn
import uvloop

from ingest.gateway.app import Gateway, build_app, reload_keys
from ingest.gateway.producer import EventProducer
from ingest.gateway.protocol import HttpLimits, LimitedHttp
from ingest.outbox.store import SqlOutbox
from tidewatch.errors import KafkaError, SettingsError
from tidewatch.kafka.admin import KafkaAdmin, NewTopic
from tidewatch.settings import Settings
from tidewatch.spec import Specs
from tidewatch.sql import open_store
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.metrics import Registry

log = get_logger(__name__)
_ADMIN_SECONDS = 5.0
_PROBE_RETENTION_MS = 3_600_000


def run_gateway(settings: Settings, specs: Specs) -> None:
    """The process behind `tidewatch gateway`: serves until SIGTERM or SIGINT, drains, and returns.

    A second signal ends it at once. SIGHUP reads the keys file again.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, specs))


async def _run(settings: Settings, specs: Specs) -> None:
    await asyncio.to_thread(make_probe_topic, settings)
    registry = Registry("gateway")
    engine = outbox = None
    if any(spec.source.kind == "outbox" for spec in specs.values()):
        engine = open_store(settings.store)
        outbox = SqlOutbox(engine, registry)
    producer = EventProducer(settings, registry, make_probe_topic=partial(make_probe_topic, settings))
    app = build_app(settings, specs, registry=registry, outbox=outbox, producer=producer)
    server = GatewayServer(_config(app, settings), app)
    # What start-up made stays for ever: a collection that walks through it costs a request ten milliseconds.
    gc.collect()
    gc.freeze()
    try:
        await server.serve()
    except SystemExit:
        # uvicorn's way to say that it could not bind.
        where = f"{settings.gateway.host}:{settings.gateway.port}"
        fix = "free the port, or set TIDEWATCH_GATEWAY__HOST and TIDEWATCH_GATEWAY__PORT"
        raise SettingsError("the gateway cannot listen", where=where, fix=fix) from None
    finally:
        if outbox is not None and engine is not None:
            await outbox.close()
            engine.dispose()


def _config(app: Gateway, settings: Settings) -> uvicorn.Config:
    gateway = settings.gateway
    limits = HttpLimits(
        gateway.max_connections,
        gateway.head_timeout_seconds,
        gateway.body_timeout_seconds,
        gateway.idle_timeout_seconds,
    )
    return uvicorn.Config(
        app,
        host=settings.gateway.host,
        port=settings.gateway.port,
        http=partial(LimitedHttp, limits=limits),  # type: ignore[arg-type]  # it takes whatever makes protocols
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=gateway.idle_timeout_seconds,
        timeout_graceful_shutdown=settings.gateway.drain_seconds,
    )


class GatewayServer(uvicorn.Server):
    """uvicorn ends with the signal that stopped it; a supervisor wants to see 0 after a drain."""

    def __init__(self, config: uvicorn.Config, app: Gateway) -> None:
        super().__init__(config)
        self._app = app

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        yield

    def _stop(self) -> None:
        if self.should_exit:
            self.force_exit = True
        log.info("gateway.draining")
        self.should_exit = True

    def _reload(self) -> None:
        reload_keys(self._app.services.keys, force=True)


def make_probe_topic(settings: Settings) -> None:
    """So that readiness can be proved by a record. Without Kafka, or the right to make topics, it is left for later."""
    name = settings.gateway.probe_topic
    try:
        with KafkaAdmin(settings.kafka, client_id="tidewatch-gateway", timeout_seconds=_ADMIN_SECONDS) as admin:
            if not admin.topics([name]):
                replication = 3 if len(admin.brokers()) >= 3 else 1
                insync = {"min.insync.replicas": str(max(1, replication - 1))}
                admin.create_topic(NewTopic(name, 1, replication, insync | {"retention.ms": str(_PROBE_RETENTION_MS)}))
    except KafkaError as error:
        log.warning("gateway.probe_topic_missing", topic=name, what=error.what, fix=error.fix)
