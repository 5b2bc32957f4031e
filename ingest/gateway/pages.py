"""The routes that are not events: health, readiness, metrics, and one documentation page."""

from __future__ import annotations

from html import escape

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ingest.gateway.problems import MEDIA_TYPE, ProblemError, unavailable
from ingest.gateway.services import Services
from tidewatch.telemetry.metrics import CONTENT_TYPE, Registry

_READY_SECONDS = 3.0


class Health(BaseModel):
    status: str = "ok"


def add_pages(app: FastAPI, services: Services, registry: Registry) -> None:
    @app.get("/health", include_in_schema=False)
    @app.get("/healthz", tags=["service"])
    async def healthz() -> Health:
        """The process runs and answers."""
        return Health()

    @app.get("/readyz", tags=["service"], responses={503: {"description": "Kafka does not acknowledge."}})
    async def readyz() -> Health:
        """Kafka acknowledged a record within the last two seconds, or acknowledges one now."""
        if not await services.producer.ready(_READY_SECONDS):
            raise unavailable(f"Kafka acknowledged no record within {_READY_SECONDS:g} s")
        return Health(status="ready")

    @app.get("/metrics", tags=["service"])
    async def metrics() -> Response:
        """Prometheus' text format."""
        services.accounting.publish()
        return Response(registry.expose(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_page(app))

    @app.exception_handler(ProblemError)
    async def problem(_: Request, error: ProblemError) -> Response:
        return _response(error)

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        fix = "see /docs for the routes"
        found = ProblemError(error.status_code, "no-such-route", str(error.detail), str(error.detail), fix=fix)
        found.headers += [(k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items()]
        return _response(found)


def _response(error: ProblemError) -> Response:
    response = Response(error.encode(), error.status, media_type=MEDIA_TYPE.decode())
    response.raw_headers += error.headers
    return response


def _page(app: FastAPI) -> str:
    """The routes as one plain page without scripts; /openapi.json is for tools."""
    document = app.openapi()
    rows = [
        f"<tr><td><code>{method.upper()} {escape(path)}</code></td><td>{escape(operation.get('summary', ''))}</td>"
        f"<td>{escape(operation.get('description', ''))}</td></tr>"
        for path, operations in sorted(document["paths"].items())
        for method, operation in operations.items()
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Tidewatch gateway</title>"
        "<style>body{font:16px system-ui;margin:2rem;max-width:70rem}td{padding:.3rem 1rem .3rem 0;"
        "vertical-align:top}:root{color-scheme:light dark}</style>"
        "<h1>Tidewatch gateway</h1><p>Schemas and examples: <a href=/openapi.json>/openapi.json</a></p>"
        f"<table>{''.join(rows)}</table>"
    )
