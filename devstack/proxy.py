"""A TCP proxy that can be told to fail: the network between two parts, in a test's hand."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import struct
import termios
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from devstack.ports import LOOPBACK, free_port

CHUNK = 64 * 1024
HELD_CHUNKS = 64  # what one direction holds back before the sender feels it
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
FLUSH_POLL_SECONDS = 0.001
END = b""


@dataclass(frozen=True)
class _Mode:
    delay: float = 0.0
    budget: int | None = None
    refuse_when_spent: bool = False


class TcpProxy:
    """Listens on `port` and passes bytes to and from `target`, a port of this machine or an address.

    The verbs may be called from any thread; each replaces the one before, and has taken effect when it returns.
    """

    def __init__(self, target: int | tuple[str, int], port: int = 0) -> None:
        self.target = (LOOPBACK, target) if isinstance(target, int) else target
        self.port = port or free_port()
        self.tripped = threading.Event()  # set when a `cut_after` has cut
        self.mode = _Mode()
        self.passing = asyncio.Event()
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)

    def start(self) -> Self:
        self._thread.start()
        self.heal()
        return self

    def stop(self) -> None:
        """Cut, and give the port back."""
        self._do(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def heal(self) -> None:
        """Pass everything again; what a black hole held is delivered."""
        self._do(self._become(_Mode()))

    def cut(self) -> None:
        """Reset every connection and refuse new ones, as a dead process does."""
        self._do(self._cut())

    def blackhole(self) -> None:
        """Accept connections and bytes, deliver none, as a paused process or a lost route does."""
        self._do(self._become(_Mode(), passing=False))

    def delay(self, seconds: float) -> None:
        """Deliver every byte `seconds` later, in each direction."""
        self._do(self._become(_Mode(delay=seconds)))

    def cut_after(self, bytes_to_server: int, *, refuse: bool = False) -> None:
        """Let so many more bytes of a connection through to the server, then reset it.

        Once, for the first connection that sends more; then everything passes, or, with `refuse`, everything is cut.
        """
        self._do(self._become(_Mode(budget=bytes_to_server, refuse_when_spent=refuse)))

    async def _become(self, mode: _Mode, *, passing: bool = True) -> None:
        self.mode = mode
        self.tripped.clear()
        for connection in self.connections:
            connection.sent = 0
        if passing:
            self.passing.set()
        else:
            self.passing.clear()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)

    async def _cut(self) -> None:
        cut = self._abort_all()
        await asyncio.gather(*cut, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn

    def _abort_all(self) -> list[asyncio.Task[None]]:
        if self._server is not None:
            self._server.close()
            self._server = None
        return [connection.abort() for connection in self.connections]

    def trip(self) -> None:
        """The budget of `cut_after` is spent."""
        if self.mode.refuse_when_spent:
            self._abort_all()
        self.mode = _Mode()
        self.tripped.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self.connections.add(connection)
        await asyncio.wait([connection.task])
        self.connections.discard(connection)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Connection:
    """A client's connection and ours to the server; it ends with a reset when anything ends it but both sides."""

    def __init__(self, proxy: TcpProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sent = 0
        self._proxy = proxy
        self._writers = [writer]
        self.task = asyncio.create_task(self._relay(reader, writer))

    def abort(self) -> asyncio.Task[None]:
        """Reset both sides; the task is over when that is done."""
        self._reset()
        self.task.cancel()
        return self.task

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._proxy.passing.wait()
            upstream, to_server = await asyncio.open_connection(*self._proxy.target)
            self._writers.append(to_server)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, to_server, counted=True))
                pumps.create_task(self._pump(upstream, writer, counted=False))
        except (OSError, ExceptionGroup):
            self._reset()
        finally:
            for each in self._writers:
                each.close()

    def _reset(self) -> None:
        for writer in self._writers:
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD_CHUNKS)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take(source, held))
            both.create_task(self._deliver(held, sink, counted=counted))

    async def _take(self, source: asyncio.StreamReader, held: asyncio.Queue[tuple[float, bytes]]) -> None:
        now = asyncio.get_running_loop().time
        while data := await source.read(CHUNK):
            await held.put((now() + self._proxy.mode.delay, data))
        await held.put((now() + self._proxy.mode.delay, END))

    async def _deliver(
        self, held: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter, *, counted: bool
    ) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, data = await held.get()
            await asyncio.sleep(max(0.0, due - now()))
            await self._proxy.passing.wait()
            if data == END:
                sink.write_eof()
                return
            allowed = self._allowed(data) if counted else data
            sink.write(allowed)
            await sink.drain()
            if len(allowed) < len(data):
                await _flushed(sink)
                self._proxy.trip()
                raise ConnectionResetError

    def _allowed(self, data: bytes) -> bytes:
        """What may pass of what the client sent."""
        budget = self._proxy.mode.budget
        self.sent += len(data)
        return data if budget is None or self.sent <= budget else data[: len(data) - (self.sent - budget)]


async def _flushed(writer: asyncio.StreamWriter) -> None:
    """Return when the peer's kernel has everything: a reset discards what is still on its way."""
    unsent = array.array("i", [1])
    while unsent[0] or writer.transport.get_write_buffer_size():
        await asyncio.sleep(FLUSH_POLL_SECONDS)
        fcntl.ioctl(writer.get_extra_info("socket"), termios.TIOCOUTQ, unsent)
