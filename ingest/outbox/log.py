"""Kafka's side of the relay: records and batch number in one transaction, under one stable transactional id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka import KafkaError as ConfluentError
from opentelemetry.trace import Span, SpanKind

from ingest.outbox.steps import Batch, Mark, ProducerLost, Row
from tidewatch.errors import KafkaUnavailable, Refused
from tidewatch.kafka.admin import EARLIEST, LATEST, KafkaAdmin, Partition
from tidewatch.kafka.client import consumer_config, producer_config, translate
from tidewatch.kafka.headers import headers_of
from tidewatch.kafka.reading import LogReader
from tidewatch.kafka.watchdog import bounded
from tidewatch.record import ENVELOPE, TRACEPARENT, decode_envelope
from tidewatch.settings import Kafka
from tidewatch.telemetry.traces import TraceContext, Tracing, parse_traceparent

_FENCED = frozenset(
    getattr(ConfluentError, name)
    for name in ("_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH", "INVALID_PRODUCER_ID_MAPPING")
)
_TRANSACTION_MS = 10_000
_PATIENCE_SECONDS = 10.0
# The gateway's limit is 1 MiB of body; the headers come on top.
_LARGEST_RECORD = 2 << 20
# A database's clock may run ahead of a broker's.
_SKEW = timedelta(hours=1)


def group_of(pipeline: str) -> str:
    """The group that holds nothing but the relay's mark; also the transactional id."""
    return f"tidewatch.outbox.{pipeline}"


class KafkaLog:
    """Log (steps.py) for one pipeline's topic."""

    def __init__(self, settings: Kafka, pipeline: str, topic: str, tracing: Tracing) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._topic = topic
        self._tracing = tracing
        self._producer: Producer | None = None
        # The mark stands in the metadata of partition 0; the offset is the batch's number, for people to see.
        self._where = TopicPartition(topic, 0)
        self._group = Consumer(consumer_config(settings, f"tidewatch-outbox-{pipeline}", group_of(pipeline)))

    def close(self) -> None:
        self._drop()
        self._group.close()

    def connect(self) -> Mark | None:
        self._drop()
        producer = Producer(
            producer_config(
                self._settings,
                f"tidewatch-outbox-{self._pipeline}",
                transactional_id=group_of(self._pipeline),
                transaction_timeout_ms=_TRANSACTION_MS,
                message_max_bytes=_LARGEST_RECORD,
                linger_ms=0,
            )
        )
        with self._translated("connecting the relay"):
            producer.init_transactions(_PATIENCE_SECONDS)
            (found,) = self._group.committed([self._where], timeout=_PATIENCE_SECONDS)
            if found.error is not None:
                raise KafkaException(found.error)
        self._producer = producer
        return Mark.decode(found.metadata) if found.offset >= 0 and found.metadata else None

    def send(self, batch: Batch) -> None:
        producer = self._producer
        if producer is None:
            raise AssertionError("send before connect")
        mark = TopicPartition(self._topic, 0, batch.mark.batch, batch.mark.encode())
        spans: list[Span] = []
        try:
            doing = f"emitting batch {batch.mark.batch}"
            group = self._group.consumer_group_metadata()
            with self._translated(doing):
                producer.begin_transaction()
                for row in batch.rows:
                    producer.produce(self._topic, row.value, key=row.key, headers=self._headers(row, spans))
                send = partial(producer.send_offsets_to_transaction, [mark], group, _PATIENCE_SECONDS)
                bounded(send, _PATIENCE_SECONDS + 1, doing)
                producer.commit_transaction(_PATIENCE_SECONDS)
        finally:
            for span in spans:
                span.end()

    def find(self, tws: Sequence[bytes], since: datetime) -> set[bytes]:
        wanted = set(tws)
        found: set[bytes] = set()
        with KafkaAdmin(self._settings) as admin, LogReader(self._settings) as reader:
            partitions = [Partition(self._topic, number) for number in range(admin.topic(self._topic).partitions)]
            earliest = admin.offsets(partitions, EARLIEST)
            starts = admin.offsets(partitions, since - _SKEW)
            ends = admin.offsets(partitions, LATEST)
            for where in partitions:
                if 0 < earliest[where] == starts[where]:
                    raise self._cannot_tell(where, since)
                for message in reader.read(self._topic, where.partition, starts[where], ends[where]):
                    tw = dict(headers_of(message) or []).get(ENVELOPE)
                    if tw in wanted:
                        found.add(tw)
                if reader.reached < ends[where]:
                    raise KafkaUnavailable(
                        f"{where} holds a transaction that is still open at offset {reader.reached}",
                        fix="wait for its producer or its timeout; it is tried again",
                    )
        return found

    def _cannot_tell(self, where: Partition, since: datetime) -> Refused:
        return Refused(
            f"whether rows of {since:%Y-%m-%d %H:%M} were emitted cannot be told: Kafka's mark is gone,"
            f" and {where} begins later",
            fix=f"see docs/outbox.md, “When neither memory can tell”; the rows wait in the outbox of {self._pipeline}",
        )

    def _headers(self, row: Row, spans: list[Span]) -> list[tuple[str, str | bytes | None]]:
        headers: list[tuple[str, str | bytes | None]] = [(ENVELOPE, row.tw)]
        context = parse_traceparent(decode_envelope(row.tw).traceparent)
        if context is not None and context.sampled:
            span = self._tracing.tracer.start_span("outbox.emit", context=context.parent, kind=SpanKind.PRODUCER)
            span.set_attribute("messaging.destination.name", self._topic)
            spans.append(span)
            made = span.get_span_context()
            here = TraceContext(made.trace_id, made.span_id, sampled=True)
            headers.append((TRACEPARENT, str(here).encode()))
        return headers

    def _drop(self) -> None:
        """The unfinished transaction of a dropped producer is aborted by the next `connect`."""
        self._producer = None

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Whatever fails, the producer is given up: the comparison after a new start is always right."""
        try:
            yield
        except KafkaException as error:
            inner = error.args[0]
            if isinstance(inner, ConfluentError) and inner.code() in _FENCED:
                raise ProducerLost(
                    f"Kafka fenced the producer of {self._pipeline} while {doing}",
                    fix="nothing to do when a relay was replaced on purpose; else look for a second relay",
                ) from error
            translated = translate(error, doing)
            if translated.retryable:
                raise translated from error
            raise ProducerLost(translated.what, fix=translated.fix) from error
        except BufferError as error:
            raise ProducerLost(f"the producer's queue is full while {doing}", fix="it is tried again") from error
