"""Connections in their limits: uvicorn with the gateway's protocol, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvicorn

from ingest.gateway.protocol import HttpLimits, LimitedHttp

SHORT, LONG = 0.05, 600.0
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def app(_: Any, __: Any, send: Any) -> None:
    """Answers without a look at the body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def serve(
    talk: Callable[[Callable[[], Awaitable[Streams]]], Awaitable[None]],
    *,
    connections: int = 100,
    head: float = LONG,
    body: float = LONG,
    idle: float = LONG,
) -> None:
    async def run() -> None:
        limits = HttpLimits(connections, head, body, idle)
        http: Any = partial(LimitedHttp, limits=limits)
        config = uvicorn.Config(app, port=0, http=http, lifespan="off", log_config=None, timeout_keep_alive=600)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            async with asyncio.timeout(30):
                await talk(partial(asyncio.open_connection, "127.0.0.1", port))
        finally:
            await server.shutdown()

    asyncio.run(run())


async def answer(streams: Streams) -> bytes:
    """All until the server closes."""
    found = await streams[0].read()
    streams[1].close()
    return found


def test_a_connection_that_says_nothing_is_closed() -> None:
    async def talk(connect: Any) -> None:
        assert await answer(await connect()) == b""

    serve(talk, idle=SHORT)


@pytest.mark.parametrize("before", [b"", GET])
def test_a_head_that_does_not_end_is_answered_408(before: bytes) -> None:
    async def talk(connect: Any) -> None:
        streams = await connect()
        if before:
            streams[1].write(before)
            await streams[0].readuntil(b"ok")
        streams[1].write(b"GET / HTTP/1.1\r\nx: ")
        found = await answer(streams)
        assert found.startswith(b"HTTP/1.1 408 ")
        assert b"slow-head" in found

    serve(talk, head=SHORT)


def test_a_trickle_does_not_prolong_a_head() -> None:
    async def talk(connect: Any) -> None:
        streams = await connect()
        streams[1].write(b"GET / HTTP/1.1\r\nx: ")
        answered = asyncio.create_task(answer(streams))
        while not answered.done():
            streams[1].write(b"x")
            await asyncio.sleep(SHORT / 5)
        assert b" 408 " in await answered

    serve(talk, head=SHORT)


def test_a_body_that_nobody_waits_for_ends_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.gateway.protocol._BODY_MARGIN_SECONDS", 0.0)

    async def talk(connect: Any) -> None:
        streams = await connect()
        streams[1].write(POST + b"1")
        assert (await answer(streams)).endswith(b"ok")

    serve(talk, body=SHORT)


def test_requests_in_a_row_and_in_one_piece() -> None:
    async def talk(connect: Any) -> None:
        streams = await connect()
        for _ in range(3):
            streams[1].write(POST + b"0123456789" + GET)
            for _ in range(2):
                await streams[0].readuntil(b"ok")
        streams[1].close()

    serve(talk)


def test_a_connection_too_many_is_answered_503() -> None:
    async def talk(connect: Any) -> None:
        first = await connect()
        first[1].write(GET)
        await first[0].readuntil(b"ok")
        second = await connect()
        second[1].write(GET)
        found = await answer(second)
        assert found.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in found
        assert b"application/problem+json" in found
        first[1].write(GET)
        await first[0].readuntil(b"ok")
        first[1].close()

    serve(talk, connections=1)
