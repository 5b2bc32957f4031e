"""The body of a request, within its limits: bytes, time, type and encoding."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from ingest.gateway.problems import ProblemError

Receive = Callable[[], Awaitable[Any]]
Headers = dict[bytes, bytes]
_GZIP = 16 + zlib.MAX_WBITS
_JSON = frozenset((b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"))


class BodyReader:
    def __init__(self, max_bytes: int, timeout_seconds: float) -> None:
        self._max = max_bytes
        self._timeout = timeout_seconds

    async def read(self, headers: Headers, receive: Receive) -> bytes:
        """The inflated body. Raises ProblemError: 400, 408, 413 or 415."""
        gzipped = _check_type(headers)
        length = headers.get(b"content-length")
        if length is not None and (len(length) > 18 or not length.isdigit() or int(length) > self._max):
            raise self._too_large()
        body = await self._whole(receive)
        return self._inflate(body) if gzipped else body

    async def _whole(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _gone()
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self._max:
                        raise self._too_large()
                    parts.append(part)
                    if not message.get("more_body"):
                        return part if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise ProblemError(
                408,
                "slow-body",
                "The body took too long",
                f"the body did not arrive within {self._timeout:g} seconds",
                fix="send smaller batches, or compress them with gzip",
                close=True,
            ) from None

    def _inflate(self, body: bytes) -> bytes:
        """Never more than the limit is inflated, whatever the body claims."""
        inflater = zlib.decompressobj(_GZIP)
        try:
            inflated = inflater.decompress(body, self._max + 1)
        except zlib.error as error:
            raise _bad_gzip(str(error)) from None
        if len(inflated) > self._max:
            raise self._too_large()
        if not inflater.eof:
            raise _bad_gzip("the stream ends before its end mark")
        if inflater.unused_data:
            raise _bad_gzip("something follows the stream")
        return inflated

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413,
            "body-too-large",
            "The body is too large",
            f"a body takes at most {self._max} bytes, after inflating",
            fix="send fewer events a request",
        )


def _check_type(headers: Headers) -> bool:
    """Whether the body is gzipped. Raises ProblemError for another type or encoding."""
    content_type = headers.get(b"content-type", b"").lower()
    if content_type not in _JSON and not _is_json(content_type):
        raise ProblemError(
            415,
            "wrong-content-type",
            "Wrong content type",
            f"events are JSON in UTF-8, and this request says {content_type.decode('latin-1')[:80] or 'nothing'!r}",
            fix="set Content-Type: application/json",
            headers=((b"accept", b"application/json"),),
        )
    encoding = headers.get(b"content-encoding", b"identity").lower().strip()
    if encoding not in {b"identity", b"gzip", b"x-gzip", b""}:
        raise ProblemError(
            415,
            "wrong-content-encoding",
            "Wrong content encoding",
            f"bodies are plain or gzipped, and this one is {encoding.decode('latin-1')[:80]!r}",
            fix="use Content-Encoding: gzip, or none",
            headers=((b"accept-encoding", b"gzip, identity"),),
        )
    return encoding.endswith(b"gzip")


def _is_json(content_type: bytes) -> bool:
    media, *parameters = (part.strip() for part in content_type.split(b";"))
    charsets = [p.partition(b"=")[2].strip(b' "') for p in parameters if p.startswith(b"charset=")]
    structured = media.endswith(b"+json") and media.count(b"/") == 1
    return (media == b"application/json" or structured) and all(c in {b"utf-8", b"utf8"} for c in charsets)


def _bad_gzip(why: str) -> ProblemError:
    return ProblemError(
        400,
        "bad-gzip",
        "The body is not valid gzip",
        f"Content-Encoding says gzip, and the body cannot be inflated: {why}",
        fix="compress the whole body as one gzip stream, or drop Content-Encoding",
    )


def _gone() -> ProblemError:
    return ProblemError(
        400, "client-gone", "The client went away", "the body did not come to its end", fix="send it again", close=True
    )
