"""uvicorn's HTTP protocol, with bounds to what may come before and around a request: uvicorn has few with httptools.

A head that comes whole in one read, of at most 256 KiB, passes; what matters is that none grows without end, or takes
for ever. Every connection has a deadline while it is not ours to act: for the first byte of its next request, for the
head, and for a body that nobody waits for (of one that is read, body.py says 408 before).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ingest.gateway.problems import MEDIA_TYPE, ProblemError, unavailable

MAX_HEAD_BYTES = 64 * 1024
_REASONS = {408: b"Request Timeout", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable"}
# What is too many is told so, when it asks within this time.
_SURPLUS_SECONDS = 1.0
_BODY_MARGIN_SECONDS = 5.0

Awaited = Literal["request", "head", "body"]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    connections: int
    head_seconds: float
    body_seconds: float
    idle_seconds: float


class LimitedHttp(HttpToolsProtocol):
    def __init__(self, *arguments: Any, limits: HttpLimits, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = limits
        self._in_head = True
        self._head_bytes = 0
        self._surplus = False
        self._awaited: Awaited | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._surplus = len(self.connections) > self._limits.connections
        self._expect("request", _SURPLUS_SECONDS if self._surplus else self._limits.idle_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._surplus:
            if not self.transport.is_closing():
                self._refuse(unavailable(f"this gateway serves {self._limits.connections} connections at once"))
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self.transport.is_closing():
            self._watch()

    def _watch(self) -> None:
        """After each read, so that a request that comes whole costs no timer."""
        if not self._in_head:
            self._expect("body", self._limits.body_seconds + _BODY_MARGIN_SECONDS)
        elif self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
        elif self._head_bytes:
            self._expect("head", self._limits.head_seconds)
        else:
            self._expect_nothing()
            # uvicorn's own timer for idle connections starts with the answer, and this read has stopped it.
            if self.cycle is not None and self.cycle.response_complete:
                self._expect("request", self._limits.idle_seconds)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect_nothing()
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def _expect(self, what: Awaited, seconds: float) -> None:
        """The deadline of what is expected already stays as it is."""
        if self._awaited != what:
            self._expect_nothing()
            self._awaited = what
            self._deadline = self.loop.call_later(seconds, self._late, what)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = self._awaited = None

    def _late(self, what: Awaited) -> None:
        self._expect_nothing()
        if self.transport.is_closing():
            return
        if self.pipeline or (what == "head" and self.cycle is not None and not self.cycle.response_complete):
            # An earlier request is not answered yet, and no later one may spoil its answer.
            self._expect(what, self._limits.head_seconds)
        elif what == "head":
            self._refuse(_slow_head(self._limits.head_seconds))
        else:
            self.transport.close()

    def _refuse(self, problem: ProblemError) -> None:
        self._expect_nothing()
        body = problem.encode()
        lines = [b"HTTP/1.1 %d %s" % (problem.status, _REASONS[problem.status]), b"content-type: " + MEDIA_TYPE]
        lines += [name + b": " + value for name, value in problem.headers]
        lines += [b"content-length: %d" % len(body), b"connection: close"]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.close()


def _slow_head(seconds: float) -> ProblemError:
    return ProblemError(
        408,
        "slow-head",
        "The request's head took too long",
        f"request line and headers did not arrive within {seconds:g} seconds",
        fix="send the head at once",
    )


def _head_too_large() -> ProblemError:
    return ProblemError(
        431,
        "headers-too-large",
        "The request's head is too large",
        f"request line and headers take at most {MAX_HEAD_BYTES} bytes",
        fix="send fewer or shorter headers",
    )
