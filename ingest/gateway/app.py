"""The FastAPI application of the gateway: the composition root of its parts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from functools import cached_property
from typing import Any

from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from ingest.gateway.accounting import Accounting
from ingest.gateway.addresses import Addresses
from ingest.gateway.body import BodyReader
from ingest.gateway.events import EventRoute, Receive, Scope, Send
from ingest.gateway.ids import EventIds
from ingest.gateway.keys import FileApiKeys
from ingest.gateway.limits import Limiter, Rate
from ingest.gateway.openapi import add_event_routes
from ingest.gateway.outbox_route import OutboxRoute
from ingest.gateway.pages import add_pages
from ingest.gateway.producer import EventProducer
from ingest.gateway.requests import UNMATCHED, RequestCounts
from ingest.gateway.services import Services
from ingest.outbox.contract import OutboxStore
from tidewatch import __version__
from tidewatch.clock import Clock, SystemClock
from tidewatch.contracts import ApiKeys, Limit, parse_limit
from tidewatch.errors import SettingsError, TidewatchError
from tidewatch.settings import Settings
from tidewatch.spec import Spec, Specs
from tidewatch.telemetry.catalogue.gateway import KEYS
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.metrics import Registry
from tidewatch.telemetry.traces import Tracing

log = get_logger(__name__)
_START_SECONDS = 10.0
_TRACE_HEADERS = frozenset((b"traceparent", b"tracestate"))
_DESCRIPTION = "Takes events, and answers once they are safe. docs/http-api.md says more."


class Gateway(FastAPI):
    """FastAPI, with the event routes taken out of its way: they are looked up before any of its middleware runs."""

    def __init__(self, services: Services, specs: list[Spec], **options: Any) -> None:
        super().__init__(**options)
        self.services = services
        self._specs = specs
        self._event_routes: dict[str, Any] = {}

    def add_event_route(self, route: EventRoute, app: Any) -> None:
        """`app` is the route itself, or a middleware around it."""
        self.router.routes.append(Route(route.path, app, methods=["POST"], include_in_schema=False))
        # With or without the slash at the end: a redirect would cost each event a second request.
        self._event_routes[route.path.rstrip("/")] = self._event_routes[route.path.rstrip("/") + "/"] = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        route = self._event_routes.get(scope["path"])
        if route is not None and scope["method"] != "OPTIONS":
            await route(scope, receive, send)
            return
        # Here anybody may ask, so a caller's wish to be traced is none of ours; our own ratio decides.
        headers = [pair for pair in scope["headers"] if pair[0] not in _TRACE_HEADERS]
        await self._counted({**scope, "headers": headers}, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 500

        async def watch(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await super().__call__(scope, receive, watch)
        finally:
            route = scope["path"] if scope["path"] in self._own_paths else UNMATCHED
            self.services.requests.count(route, scope["method"], status, time.perf_counter() - started)

    @cached_property
    def _own_paths(self) -> frozenset[str]:
        return frozenset(path for route in self.routes if (path := getattr(route, "path", None)))

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = add_event_routes(super().openapi(), self._specs)
        return self.openapi_schema


def build_app(
    settings: Settings,
    specs: Specs,
    *,
    registry: Registry | None = None,
    keys: ApiKeys | None = None,
    producer: EventProducer | None = None,
    tracing: Tracing | None = None,
    outbox: OutboxStore | None = None,
    clock: Clock | None = None,
) -> Gateway:
    """Everything that is not given is made from `settings`. Raises SettingsError or SpecError for what cannot work."""
    registry = registry or Registry("gateway")
    clock = clock or SystemClock()
    tracing = tracing or Tracing("gateway", settings.telemetry)
    keys = keys or FileApiKeys(settings.gateway.keys_file)
    producer = producer or EventProducer(settings, registry)
    ids = EventIds()
    services = Services(
        keys=keys,
        producer=producer,
        accounting=Accounting(specs.require("accounting"), producer, registry, clock),
        ids=ids,
        tracing=tracing,
        sampling=Rate(settings.gateway.max_sampled_per_second),
        body=BodyReader(settings.gateway.max_body_bytes, settings.gateway.body_timeout_seconds),
        requests=RequestCounts(registry),
        addresses=Addresses(settings.gateway.trusted_proxies),
        address_limits=_address_limits(settings.gateway.address_limits),
        limiter=Limiter(),
        clock=clock,
        outbox=outbox,
        max_batch_events=settings.gateway.max_batch_events,
    )
    if isinstance(keys, FileApiKeys):
        registry.gauge(KEYS).set_function(keys.__len__)
    open_specs = [spec for spec in specs.values() if spec.source.kind != "internal"]
    app = Gateway(
        services,
        open_specs,
        title="Tidewatch gateway",
        version=__version__,
        description=_DESCRIPTION,
        # FastAPI's documentation pages load scripts from elsewhere; ours is in pages.py.
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(services),
        separate_input_output_schemas=False,
    )
    add_pages(app, services, registry)
    cors = _cors(settings.gateway.cors_origins)
    for route in _routes(open_specs, services):
        app.add_event_route(route, CORSMiddleware(route, **cors) if cors else route)
    if cors:
        app.add_middleware(CORSMiddleware, **cors)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=tracing.provider, exclude_spans=["receive", "send"])
    return app


def _routes(specs: list[Spec], services: Services) -> list[EventRoute]:
    found: list[EventRoute] = []
    for spec in specs:
        source = spec.source
        if source.kind == "outbox" and source.path:
            if services.outbox is None:
                raise SettingsError(
                    f"pipeline {spec.name} needs an outbox store, and there is none",
                    fix="set TIDEWATCH_STORE__URL",
                )
            found.append(OutboxRoute(spec, source.path, services, services.outbox))
        elif source.path:
            found.append(EventRoute(spec, source.path, "one" if source.batch_path else "either", services))
        if source.batch_path:
            found.append(EventRoute(spec, source.batch_path, "many", services))
    return found


def _lifespan(services: Services) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not await services.producer.start(_START_SECONDS):
            log.warning("gateway.started_without_kafka")
        stopping = asyncio.Event()
        ticking = asyncio.create_task(_tick(services, stopping))
        yield
        # A flush under way comes to its end: cancelled, it would not know what Kafka took, and that be sent again.
        stopping.set()
        await ticking
        await services.accounting.finish()
        left = await services.producer.close(_START_SECONDS)
        services.tracing.close()
        log.info("gateway.drained", records_given_up=left)

    return lifespan


async def _tick(services: Services, stopping: asyncio.Event) -> None:
    """Once a second: send the accounts, and look for new keys."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), 1)
            return
        try:
            await services.accounting.flush()
            reload_keys(services.keys)
        except Exception:  # one bad second must not end all those to come
            log.exception("gateway.tick_failed")


def reload_keys(keys: ApiKeys, *, force: bool = False) -> None:
    """Wrong keys files are logged, and the keys known so far stay."""
    if not isinstance(keys, FileApiKeys):
        return
    try:
        if keys.reload(force=force):
            log.info("gateway.keys_reloaded", count=len(keys))
    except TidewatchError as error:
        log.error("gateway.keys_not_reloaded", what=str(error))  # noqa: TRY400 — the message says it all


def _address_limits(text: str) -> tuple[Limit, ...]:
    try:
        return tuple(parse_limit(part) for part in text.split())
    except ValueError as error:
        raise SettingsError(
            f"TIDEWATCH_GATEWAY__ADDRESS_LIMITS: {error}", fix="separate several limits by spaces"
        ) from None


def _cors(origins: str) -> dict[str, Any]:
    allowed = [origin.strip() for origin in origins.split(",") if origin.strip()]
    if not allowed:
        return {}
    names = ["Authorization", "X-Api-Key", "Content-Type", "Content-Encoding", "Idempotency-Key", "traceparent"]
    return {
        "allow_origins": allowed,
        "allow_methods": ["POST", "GET"],
        "allow_headers": names,
        "expose_headers": ["Retry-After"],
        "max_age": 600,
    }
