"""Dead letters, written in one Kafka transaction with the offsets whose metadata says where they stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaException, Message, Producer, TopicPartition

from ingest.loader.blocks import Ranges
from ingest.loader.effects import Bad, CommitResult, Committed
from ingest.loader.intents import MAX_LETTERS
from ingest.loader.origin import spans
from ingest.loader.rows import Kept
from ingest.schema.topics import MAX_LETTER_BYTES
from tidewatch import __version__
from tidewatch.clock import Clock
from tidewatch.errors import KafkaUnavailable
from tidewatch.kafka.client import producer_config
from tidewatch.kafka.headers import headers_of
from tidewatch.kafka.watchdog import bounded
from tidewatch.record import Failure, Letter, Origin, letter_headers
from tidewatch.settings import Kafka
from tidewatch.telemetry.logs import get_logger

_SECONDS = 10
# The rest is for the key and the headers, which are the client's as well.
_LARGEST_VALUE = MAX_LETTER_BYTES - 512 * 1024
_TOMBSTONE = Failure("tombstone", "", "the record has a key and no value")

log = get_logger(__name__)


class LetterWriter:
    """Used by the polling thread alone. Its transactional id is the lane's, so that a successor fences it."""

    def __init__(
        self, settings: Kafka, *, pipeline: str, topic: str, topic_id: str, to: str, who: str, clock: Clock
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._topic = topic
        self._topic_id = topic_id
        self._to = to
        self._who = who
        self._clock = clock
        self._producer: Producer | None = None
        self._partitions = 1

    def write(
        self,
        records: Sequence[tuple[Bad, Message | Kept]],
        offsets: Callable[[Ranges], Mapping[int, Committed]],
        group: Any,
    ) -> tuple[CommitResult, Ranges]:
        """AGAIN when nobody knows whether it was committed; a producer that failed is thrown away, for the next one
        under the same id ends what this one left open.
        """
        try:
            producer = self._ready()
            producer.begin_transaction()
            placed: list[tuple[int, int]] = []
            for bad, message in records:
                self._produce(producer, bad, message, placed)
            producer.flush(_SECONDS)
            _require(len(placed) == len(records), f"{len(records) - len(placed)} letters were not acknowledged")
            letters = spans(placed)
            commits = [TopicPartition(self._topic, p, c.offset, c.metadata) for p, c in offsets(letters).items()]
            send = partial(producer.send_offsets_to_transaction, commits, group, _SECONDS)
            bounded(send, _SECONDS + 1, "sending offsets with dead letters")
            producer.commit_transaction(_SECONDS)
        except (KafkaException, BufferError, _Unplaced) as error:
            log.warning("loader.letters_not_committed", topic=self._topic, letters=len(records), error=str(error))
            self._abandon()
            return CommitResult.AGAIN, ()
        except KafkaUnavailable as error:
            # The call is still inside this producer: leave both behind, for the next one fences it.
            log.warning("loader.letters_not_committed", topic=self._topic, letters=len(records), error=error.what)
            self._producer = None
            return CommitResult.AGAIN, ()
        return CommitResult.DONE, letters

    def close(self) -> None:
        self._producer = None

    def _ready(self) -> Producer:
        if self._producer is None:
            over = {
                "transactional_id": self._who,
                "transaction_timeout_ms": _SECONDS * 1000,
                "linger_ms": 20,
                "message_max_bytes": MAX_LETTER_BYTES,
            }
            producer = Producer(producer_config(self._settings, f"{self._who}-letters", **over))
            producer.init_transactions(_SECONDS)
            found = producer.list_topics(self._to, timeout=_SECONDS).topics[self._to]
            # One pointer for each partition written to; an intent has room for a few.
            self._partitions = max(1, min(len(found.partitions), MAX_LETTERS))
            self._producer = producer
        return self._producer

    def _abandon(self) -> None:
        """Abort at once where that is possible, so that readers of the dead letters are not held up."""
        if self._producer is None:
            return
        try:
            self._producer.abort_transaction(_SECONDS)
        except KafkaException as error:
            log.info("loader.abort_failed", topic=self._topic, error=str(error))
        self._producer = None

    def _produce(self, producer: Producer, bad: Bad, message: Message | Kept, placed: list[tuple[int, int]]) -> None:
        partition, offset = bad.position
        failure = Failure(bad.error, bad.field, bad.message) if message.value() is not None else _TOMBSTONE
        headers = letter_headers(
            pipeline=self._pipeline,
            stage="loader",
            failure=failure,
            origin=Origin(self._topic, self._topic_id, partition, offset),
            failed_at=self._clock.now(),
            version=__version__,
        )

        value = message.value()
        if value is not None and len(value) > _LARGEST_VALUE:
            headers.append((Letter.TRUNCATED, str(len(value)).encode()))
            value = value[:_LARGEST_VALUE]

        def delivered(error: Any, written: Message) -> None:
            if error is None:
                placed.append((written.partition() or 0, written.offset() or 0))

        while True:
            try:
                producer.produce(
                    self._to,
                    value=value,
                    key=message.key(),
                    headers=[*(headers_of(message) or []), *headers],
                    partition=partition % self._partitions,
                    on_delivery=delivered,
                )
            except BufferError:
                producer.poll(0.1)
                continue
            producer.poll(0)
            return


def _require(fulfilled: bool, otherwise: str) -> None:  # noqa: FBT001 — a condition
    if not fulfilled:
        raise _Unplaced(otherwise)


class _Unplaced(Exception):
    """Some letters did not reach the log."""
