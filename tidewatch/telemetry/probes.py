"""`/metrics`, `/healthz` and `/readyz` of a service that has no other HTTP of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Protocol, Self

from tidewatch.errors import SettingsError
from tidewatch.telemetry.metrics import CONTENT_TYPE

Readiness = Callable[[], list[str]]
"""What stands in the way of doing the work; empty when nothing does."""


class Source(Protocol):
    """What has metrics: a Registry, or an Exposition."""

    def expose(self) -> bytes: ...

    def expose_gzip(self) -> bytes: ...


class Probes:
    """Answers from threads of its own, from the moment it is made until `close`."""

    def __init__(self, host: str, port: int, metrics: Source, readiness: Readiness) -> None:
        """Port 0 takes a free one; `port` says which. Raises SettingsError when the address is taken."""
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(metrics, readiness))
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {host}:{port}: {error.strerror}", fix="stop what listens there, or change the port"
            ) from error
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="probes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _handler(metrics: Source, readiness: Readiness) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    self._answer_metrics()
                case "/healthz":
                    self._answer_json(200, {"status": "alive"})
                case "/readyz":
                    problems = readiness()
                    status = {"status": "not ready" if problems else "ready", "problems": problems}
                    self._answer_json(503 if problems else 200, status)
                case _:
                    self._answer_json(404, {"status": "not found", "paths": ["/metrics", "/healthz", "/readyz"]})

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — the base class's name
            """A scrape each few seconds is no news."""

        def _answer_metrics(self) -> None:
            if "gzip" in self.headers.get("Accept-Encoding", ""):
                self._answer(200, CONTENT_TYPE, metrics.expose_gzip(), {"Content-Encoding": "gzip"})
            else:
                self._answer(200, CONTENT_TYPE, metrics.expose())

        def _answer_json(self, status: int, content: dict[str, Any]) -> None:
            self._answer(status, "application/json", json.dumps(content).encode())

        def _answer(self, status: int, kind: str, body: bytes, more: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            for name, value in (more or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
