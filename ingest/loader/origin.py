"""The log, read outside of the group: blocks of a former owner, bad records with their headers, letters once written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from ingest.loader.blocks import Position, Range, Ranges
from ingest.loader.effects import Failed, Rebuilt, Trouble
from ingest.loader.rows import Frame, Rows
from tidewatch.errors import KafkaError
from tidewatch.kafka.client import consumer_config, translate
from tidewatch.kafka.headers import headers_of
from tidewatch.kafka.reading import LogReader
from tidewatch.record import Letter
from tidewatch.settings import Kafka

_T = TypeVar("_T")
_CHUNK = 20_000


class Origin:
    """Safe to use from one thread at a time; connects for each question, for they are rare."""

    def __init__(self, settings: Kafka, topic: str, topic_id: str, letters_topic: str | None, frame: Frame) -> None:
        self._settings = settings
        self._topic = topic
        self._topic_id = topic_id
        self._letters_topic = letters_topic
        self._frame = frame

    def rebuild(self, ranges: Ranges) -> Rebuilt | Failed:
        """Retention may have taken the beginning of a range; compaction leaves holes, which are no loss."""
        return _asked(lambda: self._rebuild(ranges))

    def letters(self, where: Ranges, ranges: Ranges) -> set[Position] | Failed:
        return _asked(lambda: self._letters(where, ranges))

    def messages(self, positions: Collection[Position]) -> dict[Position, Message] | Failed:
        """Those of the records that the log still holds."""
        return _asked(lambda: self._messages(positions))

    def _rebuild(self, ranges: Ranges) -> Rebuilt:
        lows = self._lows(self._topic, [r.partition for r in ranges])
        batches = []
        gone = {}
        with LogReader(self._settings) as reader:
            for r in ranges:
                first = max(r.first, lows[r.partition])
                gone[r.partition] = min(first, r.last + 1) - r.first
                messages: list[Message] = []
                for message in reader.read(self._topic, r.partition, first, r.last + 1):
                    messages.append(message)
                    if len(messages) == _CHUNK:
                        batches.append(self._frame(messages))
                        messages = []
                if messages:
                    batches.append(self._frame(messages))
        return Rebuilt(Rows(tuple(batches)), gone)

    def _messages(self, positions: Collection[Position]) -> dict[Position, Message]:
        found: dict[Position, Message] = {}
        wanted = set(positions)
        spans = {p: [o for q, o in wanted if q == p] for p in {p for p, _ in wanted}}
        lows = self._lows(self._topic, spans)
        with LogReader(self._settings) as reader:
            for partition, offsets in spans.items():
                first = max(min(offsets), lows[partition])
                for message in reader.read(self._topic, partition, first, max(offsets) + 1):
                    position = (partition, message.offset() or 0)
                    if position in wanted:
                        found[position] = message
        return found

    def _letters(self, where: Ranges, ranges: Ranges) -> set[Position]:
        if self._letters_topic is None:
            return set()
        found: set[Position] = set()
        with LogReader(self._settings) as reader:
            for r in where:
                for message in reader.read(self._letters_topic, r.partition, r.first, r.last + 1):
                    position = _origin_of(message, self._topic_id)
                    if position is not None and any(r.holds(position) for r in ranges):
                        found.add(position)
        return found

    def _lows(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        consumer = Consumer(consumer_config(self._settings, "tidewatch-loader-origin", "tidewatch.reader"))
        try:
            return {
                p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10, cached=False)[0]
                for p in partitions
            }
        except KafkaException as error:
            raise translate(error, f"reading the beginning of {topic}") from error
        finally:
            consumer.close()


def spans(offsets: Iterable[tuple[int, int]]) -> Ranges:
    """The least ranges, one by partition, that hold the given positions."""
    lows: dict[int, int] = {}
    highs: dict[int, int] = {}
    for partition, offset in offsets:
        lows[partition] = min(offset, lows.get(partition, offset))
        highs[partition] = max(offset, highs.get(partition, offset))
    return tuple(Range(p, lows[p], highs[p]) for p in sorted(lows))


def _origin_of(message: Message, topic_id: str) -> Position | None:
    """None for a letter of another topic, and for one whose headers no loader of ours wrote."""
    headers = dict(headers_of(message) or ())
    partition, offset = headers.get(Letter.PARTITION, b""), headers.get(Letter.OFFSET, b"")
    if headers.get(Letter.TOPIC_ID) != topic_id.encode() or not (partition.isdigit() and offset.isdigit()):
        return None
    return int(partition), int(offset)


def _asked(question: Callable[[], _T]) -> _T | Failed:
    try:
        return question()
    except KafkaError as error:
        return Failed(Trouble.KAFKA, error.what)
