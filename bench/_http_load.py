"""A load client written for speed: sockets that know just enough HTTP. Runs as a process of its own.

    python -m bench._http_load <<< '{"port": …, "path": …, "key": …, "body_file": …, "connections": 32, "seconds": 8}'

With `rate` requests are sent on a schedule, and latency counts from the time at which a request was due; without it
each connection sends its next request when it has the answer to the last. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any, cast

import uvloop

WARM_UP_SECONDS = 2.0


class Load:
    """`latencies` are of answers that came after the warm-up; `answers` counts all."""

    def __init__(self, seconds: float, rate: float | None) -> None:
        self.begin = time.perf_counter() + WARM_UP_SECONDS
        self.end = self.begin + seconds
        self.rate = rate
        self.answers = 0
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.idle: deque[Connection] = deque()
        self.due: deque[float] = deque()

    def answered(self, connection: Connection, status: int, sent: float) -> None:
        now = time.perf_counter()
        self.answers += 1
        if self.begin <= now < self.end:
            self.latencies.append(now - sent)
            self.statuses[status] += 1
        if self.rate is None:
            if now < self.end:
                connection.send(now)
        elif self.due:
            connection.send(self.due.popleft())
        else:
            self.idle.append(connection)

    async def schedule(self) -> None:
        """Requests at the times at which they are due, whether a connection is free or not."""
        if self.rate is None:
            await asyncio.sleep(self.end - time.perf_counter() + 0.5)
            return
        due, step = time.perf_counter(), 1 / self.rate
        while (now := time.perf_counter()) < self.end:
            while due <= now:
                if self.idle:
                    self.idle.popleft().send(due)
                else:
                    self.due.append(due)
                due += step
            await asyncio.sleep(0.0005)
        await asyncio.sleep(0.5)


class Connection(asyncio.Protocol):
    def __init__(self, load: Load, request: bytes) -> None:
        self._load, self._request = load, request
        self._missing = 0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._load.rate is None:
            self.send(time.perf_counter())
        else:
            self._load.idle.append(self)

    def send(self, due: float) -> None:
        self._sent = due
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            self._head = b""
            at = data.find(b"content-length: ") + 16
            self._status = int(data[9:12])
            self._missing = int(data[at : data.find(b"\r", at)]) + end + 4 - len(data)
        if self._missing == 0:
            self._load.answered(self, self._status, self._sent)


async def main(plan: dict[str, Any], body: bytes) -> dict[str, Any]:
    head = (
        f"POST {plan['path']} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {plan['key']}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    load = Load(plan["seconds"], plan.get("rate"))
    loop = asyncio.get_running_loop()
    for _ in range(plan["connections"]):
        await loop.create_connection(lambda: Connection(load, head.encode() + body), "127.0.0.1", plan["port"])
    await load.schedule()
    ordered = sorted(load.latencies)
    return {
        "answers": load.answers,
        "rps": len(ordered) / plan["seconds"],
        "p50_ms": round(_quantile(ordered, 0.5) * 1000, 2),
        "p99_ms": round(_quantile(ordered, 0.99) * 1000, 2),
        "statuses": dict(load.statuses),
    }


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        given = json.load(sys.stdin)
        print(json.dumps(runner.run(main(given, Path(given["body_file"]).read_bytes()))))
