"""uvicorn's HTTP protocol, with a bound to what may come before a body: uvicorn itself has none with httptools.

A head that comes whole in one read, of at most 256 KiB, passes; what matters is that none grows without end.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ingest.gateway.problems import MEDIA_TYPE, ProblemError

MAX_HEAD_BYTES = 64 * 1024


class LimitedHttp(HttpToolsProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._head_bytes = 0

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def _refuse(self) -> None:
        problem = ProblemError(
            431,
            "headers-too-large",
            "The request's head is too large",
            f"request line and headers take at most {MAX_HEAD_BYTES} bytes",
            fix="send fewer or shorter headers",
        )
        body = problem.encode()
        head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: %s\r\n" % MEDIA_TYPE
        self.transport.write(head + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        self.transport.close()
