"""The limit of what a gateway can do here: the same server, bytes, producer and acknowledgements, and no guarantees.

No validation (an array is only cut into its events), no keys, limits, tracing, metrics or accounting; event ids are a
counter. Compression, acks, idempotence, linger and the way of polling are those of `ingest.gateway.producer`.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
from typing import Any

import msgspec
import uvicorn
import uvloop
from confluent_kafka import Producer

from tidewatch.kafka.client import producer_config
from tidewatch.settings import load_settings

SUFFIX = b";1767225600000000;1;bench;00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
POLL_SECONDS = 0.001
_slices = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Bare:
    def __init__(self, topic: str) -> None:
        self._topic = topic
        settings = load_settings()
        config = producer_config(settings.kafka, "bare", linger_ms=settings.gateway.linger_ms)
        self._producer = Producer(config | {"queue.buffering.max.messages": 1_000_000})
        self._numbers = itertools.count()
        self._polling = False

    def _poll(self) -> None:
        self._producer.poll(0)
        self._polling = len(self._producer) > 0
        if self._polling:
            asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        values = [bytes(raw) for raw in _slices(body)] if body[:1] == b"[" else [body]
        ids = [b"%036x" % next(self._numbers) for _ in values]
        await self._send(values, ids)
        if body[:1] == b"[":
            between = b'"},{"status":"accepted","event_id":"'
            answer = b'{"accepted":%d,"results":[{"status":"accepted","event_id":"%s"}]}' % (
                len(ids),
                between.join(ids),
            )
        else:
            answer = b'{"event_id":"%s"}' % ids[0]
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _send(self, values: list[bytes], ids: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        left = len(values)

        def report(error: Any, _: Any) -> None:
            nonlocal left
            left -= 1
            if error is not None:
                raise RuntimeError(error.str())
            if left == 0:
                done.set_result(None)

        produce = self._producer.produce
        for value, event_id in zip(values, ids, strict=True):
            produce(self._topic, value, None, -1, report, None, 0, [("tw", event_id + SUFFIX)])
        if not self._polling:
            self._polling = True
            loop.call_later(POLL_SECONDS, self._poll)
        await done


async def main(port: int, topic: str) -> None:
    config = uvicorn.Config(
        Bare(topic), port=port, http="httptools", lifespan="off", access_log=False, log_config=None, server_header=False
    )
    gc.collect()
    gc.freeze()
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), sys.argv[2]))
