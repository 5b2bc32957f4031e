"""Read a known stretch of a partition, and know how far the log answered for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as ConfluentError

from tidewatch.errors import KafkaError, KafkaUnavailable
from tidewatch.kafka.client import consumer_config, translate
from tidewatch.settings import Kafka

_AT_ONCE = 10_000
_PATIENT_POLL = 0.2


class RecordsGone(KafkaError):
    """Retention removed the beginning of the stretch before it was read."""


class LogReader:
    """Reads without a group's say: nothing is committed. Not safe to share between threads."""

    def __init__(self, settings: Kafka, *, committed: bool = True, patience_seconds: float = 30) -> None:
        """With `committed`, aborted records are left out and reading ends where an open transaction begins."""
        self._patience = patience_seconds
        isolation = "read_committed" if committed else "read_uncommitted"
        config = consumer_config(settings, "tidewatch-reader", "tidewatch.reader", enable_partition_eof=True)
        self._consumer = Consumer(config | {"isolation.level": isolation, "fetch.wait.max.ms": 20})
        self._ahead: deque[Message] = deque()
        self._next: tuple[str, int, int] | None = None
        self._ended = False
        self.reached = 0
        """After `read`: every record below this offset, from the start of the stretch, was given."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._consumer.close()

    def read(self, topic: str, partition: int, first: int, end: int) -> Iterator[Message]:
        """Records with `first <= offset < end`, in order. A stretch that follows on the one before is read on cheaply.

        Ends early, with `reached < end`, at the end of the log or at an open transaction. Raises KafkaUnavailable
        when no broker answers in time, and RecordsGone when `first` is no longer there.
        """
        self.reached = first
        if first >= end:
            return
        where = f"{topic}[{partition}]"
        goes_on, self._next = self._next == (topic, partition, first), None
        try:
            if not goes_on:
                self._ahead.clear()
                self._ended = False
                self._consumer.assign([TopicPartition(topic, partition, first)])
            yield from self._until(end, where)
        except KafkaException as error:
            raise translate(error, f"reading {where}") from error
        # At the end of the log nothing more is said until something is appended, so there is no reading on.
        if not self._ended:
            self._next = (topic, partition, end)

    def _until(self, end: int, where: str) -> Iterator[Message]:
        heard = time.monotonic()
        while self.reached < end:
            if not self._ahead:
                self._ahead.extend(self._consumer.consume(_AT_ONCE, timeout=_PATIENT_POLL))
            if self._ahead:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._patience:
                raise KafkaUnavailable(
                    f"{where} gave nothing for {self._patience:g} s at offset {self.reached}",
                    fix="check that the partition has a leader",
                )
            while self._ahead and self.reached < end:
                message = self._ahead[0]
                offset = message.offset() or 0
                if message.error() is not None:
                    self._ahead.popleft()
                    if self._at_end(message, offset, where):
                        self._ended = True
                        return
                elif offset >= end:
                    self.reached = end
                else:
                    self.reached = offset + 1
                    yield self._ahead.popleft()

    def _at_end(self, message: Message, offset: int, where: str) -> bool:
        """Whether this event says that there is no more; raises for a real error, ignores what passes by itself."""
        error = message.error()
        assert error is not None  # noqa: S101 — the caller asked
        if error.code() == ConfluentError._PARTITION_EOF:  # noqa: SLF001 — public, whatever its underscore says
            self.reached = max(self.reached, offset)
            return True
        if error.code() == ConfluentError._AUTO_OFFSET_RESET:  # noqa: SLF001
            raise RecordsGone(
                f"{where} no longer holds offset {self.reached}", fix="ask again: the window begins later now"
            )
        translated = translate(error, f"reading {where}")
        if not translated.retryable:
            raise translated
        return False
