"""HTTP/1.1 on one connection: requests in, answers out, both piece by piece. Nothing here knows ClickHouse."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from devstack.chfront.compression import Bytes

MAX_HEAD: Final = 1 << 20
PIECE: Final = 1 << 20
READ_BUFFER: Final = 1 << 16


class Gone(Exception):
    """The client went away, or does not speak HTTP: the connection is closed without an answer."""


class BadRequest(Exception):
    """The request cannot be read; it is answered with a 400 and the connection is closed."""


@dataclass(slots=True)
class Request:
    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: Body
    keep_alive: bool

    def header(self, name: str) -> str:
        return self.headers.get(name, "")


@dataclass(slots=True)
class Response:
    """`body` may be a stream of pieces; it is sent chunked unless `length` is known."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Iterable[Bytes] = ()
    length: int | None = 0
    release: Callable[[], None] | None = None

    def close(self) -> None:
        """Give free what the body was made from; by the thread that sent it, whether or not it was sent whole."""
        if self.release is not None:
            self.release()

    @classmethod
    def text(cls, status: int, text: str | bytes, headers: dict[str, str] | None = None) -> Response:
        data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        kind = {"Content-Type": "text/plain; charset=UTF-8"}
        return cls(status, kind | (headers or {}), [data], len(data))


class Body:
    """The request's body, read once, by length or by chunks. What is left unread is drained before the next request."""

    def __init__(self, wire: Wire, headers: dict[str, str]) -> None:
        self._wire = wire
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._left = _length(headers) if not self._chunked else 0
        self._expects = headers.get("expect", "").lower() == "100-continue"
        self._done = not self._chunked and not self._left

    def pieces(self) -> Iterator[memoryview]:
        """The raw bytes. Each piece is overwritten by the next one: use it before you ask for another."""
        if self._expects and not self._done:
            self._wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._expects = False
        buffer = memoryview(bytearray(PIECE if self._chunked else min(PIECE, self._left)))
        while not self._done:
            if self._chunked:
                yield from self._chunk(buffer)
            else:
                read = self._wire.read_into(buffer[: self._left])
                self._left -= read
                self._done = not self._left
                yield buffer[:read]

    def _chunk(self, buffer: memoryview) -> Iterator[memoryview]:
        if not self._left:
            try:
                self._left = int(self._wire.line().split(b";")[0], 16)
            except ValueError as error:
                raise BadRequest("the size of a chunk is not a hexadecimal number") from error
            if not self._left:
                while self._wire.line():
                    pass
                self._done = True
                return
        read = self._wire.read_into(buffer[: self._left])
        self._left -= read
        yield buffer[:read]
        if not self._left:
            self._wire.line()

    def drain(self) -> bool:
        """Read what is left; False when the client still waits to be asked for it, so that the connection must close."""
        if self._expects and not self._done:
            return False
        for _ in self.pieces():
            pass
        return True


def _length(headers: dict[str, str]) -> int:
    text = headers.get("content-length", "0")
    if not text.isdigit():
        raise BadRequest("Content-Length is not a number")
    return int(text)


class Wire:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._reader = io.BufferedReader(socket.SocketIO(connection, "rb"), READ_BUFFER)

    def line(self) -> bytes:
        text = self._reader.readline(MAX_HEAD)
        if not text.endswith(b"\n"):
            raise Gone
        return text.rstrip(b"\r\n")

    def read_into(self, buffer: memoryview) -> int:
        read = self._reader.readinto1(buffer)
        if not read:
            raise Gone
        return read

    def send(self, data: Bytes) -> None:
        self._socket.sendall(data)

    def request(self) -> Request | None:
        """The next request, or None when the client closed the connection between two of them."""
        start = self._reader.readline(MAX_HEAD)
        while start in {b"\r\n", b"\n"}:
            start = self._reader.readline(MAX_HEAD)
        if not start:
            return None
        words = start.decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest("the request line is not HTTP/1")
        headers = self._headers()
        method, target, version = words
        url = urlsplit(target)
        params = dict(parse_qsl(url.query, keep_blank_values=True, errors="surrogateescape"))
        wish = headers.get("connection", "").lower()
        keep = wish == "keep-alive" if version == "HTTP/1.0" else wish != "close"
        return Request(method, url.path, params, headers, Body(self, headers), keep)

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        size = 0
        while text := self.line():
            size += len(text)
            if size > MAX_HEAD:
                raise BadRequest("the headers are too long")
            name, _, value = text.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        return headers

    def answer(self, response: Response, *, keep_alive: bool, head_only: bool = False) -> None:
        """Send it. A body that fails on its way breaks the connection, so that nobody takes it for a whole one."""
        length = response.length
        framing = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
        lines = [f"HTTP/1.1 {response.status} {_phrase(response.status)}", framing]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        lines += ["Connection: Keep-Alive" if keep_alive else "Connection: Close"]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace")
        if head_only:
            self.send(head)
            return
        for piece in response.body:
            if len(piece):
                self._send_piece(head, piece, chunked=length is None)
                head = b""
        tail = head + (b"0\r\n\r\n" if length is None else b"")
        if tail:
            self.send(tail)

    def _send_piece(self, head: bytes, piece: Bytes, *, chunked: bool) -> None:
        before, after = (head + b"%x\r\n" % len(piece), b"\r\n") if chunked else (head, b"")
        if len(piece) <= READ_BUFFER:
            self.send(before + bytes(piece) + after)
            return
        for part in (before, piece, after):
            if len(part):
                self.send(part)

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
