"""What became of the records of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaError, KafkaException, Message


class Delivery:
    """Counts down the reports of its records; `done` is set when the last has come, and holds no result.

    librdkafka's report names no record of ours, so a failed one is known by its bytes. Two equal events of one request
    of which one failed are then both called failed, which errs on the safe side: nothing lost is called accepted.
    """

    __slots__ = ("_left", "_on_done", "done", "error", "failed", "started")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int, on_done: Callable[[Delivery], None]) -> None:
        self.started = loop.time()
        self.done: asyncio.Future[None] = loop.create_future()
        self.failed: set[bytes] = set()
        self.error: KafkaError | None = None
        """The last failure, None when all were acknowledged."""
        self._left = count
        self._on_done = on_done

    def report(self, error: KafkaError | None, message: Message) -> None:
        """Called by librdkafka for each record, from within `poll`."""
        if error is not None:
            self.error = error
            value = message.value()
            self.failed.add(value.encode() if isinstance(value, str) else value or b"")
        self._left -= 1
        if self._left == 0:
            self._finish()

    def refuse(self, values: Iterable[bytes], error: BufferError | KafkaException) -> None:
        """Those of `values` were never handed over."""
        if isinstance(error, KafkaException) and isinstance(error.args[0], KafkaError):
            self.error = error.args[0]
        else:
            self.error = KafkaError(KafkaError._QUEUE_FULL)  # noqa: SLF001 — librdkafka's own code
        for value in values:
            self.failed.add(value)
            self._left -= 1
        if self._left == 0:
            self._finish()

    def _finish(self) -> None:
        self._on_done(self)
        if not self.done.done():
            self.done.set_result(None)
