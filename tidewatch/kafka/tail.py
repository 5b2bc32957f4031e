"""Watch a topic: records as they arrive, or from a place in the past, filtered by what is in them."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from tidewatch.errors import UsageError
from tidewatch.kafka.admin import EARLIEST, LATEST, KafkaAdmin, Partition
from tidewatch.kafka.client import consumer_config, translate
from tidewatch.kafka.headers import headers_of
from tidewatch.record import ENVELOPE, Envelope, decode_envelope
from tidewatch.settings import Kafka

AT_ONCE = 500
POLL_SECONDS = 0.2
MISSING = object()

_FILTER = re.compile(r"(?P<path>[^=!~]+?)\s*(?P<operator>!=|=|~)\s*(?P<value>.*)", re.DOTALL)
_AGO = re.compile(r"(\d{1,9})(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Edge(Enum):
    BEGINNING = "beginning"
    END = "end"


Start = Edge | datetime | int


def parse_start(text: str, now: datetime) -> Start:
    """`10m` ago, `beginning`, `end`, a time in RFC 3339 (UTC unless it says otherwise), or an offset."""
    with suppress(ValueError):
        return Edge(text)
    if ago := _AGO.fullmatch(text):
        with suppress(OverflowError):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    if text.isdecimal():
        return int(text)
    with suppress(ValueError):
        time = datetime.fromisoformat(text)
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    raise UsageError(
        f"{text!r} is no place to start", fix="for example 10m, 2h, beginning, 2026-01-01T14:00:00Z or 1234"
    )


@dataclass(frozen=True)
class Filter:
    """A condition on one value of the event; where the path leads through lists, any element may meet it."""

    path: tuple[str, ...]
    operator: Literal["=", "!=", "~"]
    value: str

    def matches(self, event: Any) -> bool:
        """What is not there equals nothing and matches no pattern."""
        found = list(_values(event, self.path))
        if self.operator == "~":
            return any(re.search(self.value, _text(value)) for value in found)
        equal = any(_equal(value, self.value) for value in found)
        return equal if self.operator == "=" else not equal


def parse_filter(text: str) -> Filter:
    """`event=purchase`, `properties.price!=0`, `user.email~@example[.]org$`."""
    match = _FILTER.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no condition", fix="write PATH=VALUE, PATH!=VALUE or PATH~PATTERN")
    operator: Any = match["operator"]
    if operator == "~":
        try:
            re.compile(match["value"])
        except re.error as error:
            raise UsageError(f"{match['value']!r} is no pattern: {error}", fix="write a regular expression") from None
    return Filter(tuple(match["path"].strip().split(".")), operator, match["value"])


@dataclass(frozen=True)
class Record:
    topic: str
    partition: int
    offset: int
    time: datetime
    """When the broker appended it."""
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def envelope(self) -> Envelope | None:
        """None for a record that no gateway of ours wrote."""
        with suppress(KeyError, ValueError):
            return decode_envelope(self.headers[ENVELOPE])
        return None

    @property
    def event(self) -> Any:
        """The value as JSON, MISSING when it is none."""
        with suppress(ValueError, RecursionError):
            return json.loads(self.value or b"", parse_constant=_finite, parse_float=_finite)
        return MISSING

    def matches(self, filters: Sequence[Filter], key: str | None) -> bool:
        if key is not None and (self.key is None or self.key != key.encode()):
            return False
        event = self.event if filters else MISSING
        return all(condition.matches(event) for condition in filters)


def tail(
    settings: Kafka,
    topic: str,
    start: Start = Edge.END,
    *,
    follow: bool = True,
    matching: Callable[[Record], bool] = lambda _: True,
) -> Generator[Record, None, None]:
    """Records of the topic, each partition in its order; without `follow`, those that are there now.

    Raises UsageError for an unknown topic, KafkaUnavailable when no broker answers at the start; later it waits.
    """
    first, end = _stretch(settings, topic, start)
    config = consumer_config(settings, "tidewatch-tail", "tidewatch.tail", auto_offset_reset="earliest")
    consumer = Consumer(config | {"enable.partition.eof": not follow, "fetch.wait.max.ms": 50})
    try:
        consumer.assign([TopicPartition(p.topic, p.partition, offset) for p, offset in first.items()])
        waiting = {p for p in first if follow or first[p] < end[p]}
        while waiting:
            for message in consumer.consume(AT_ONCE, POLL_SECONDS):
                place = Partition(topic, message.partition() or 0)
                if (error := message.error()) is not None:
                    if _at_end(error):
                        waiting.discard(place)
                    continue
                record = _record(message)
                if not follow and record.offset >= end[place] - 1:
                    waiting.discard(place)
                if (follow or record.offset < end[place]) and matching(record):
                    yield record
    finally:
        consumer.close()


def _stretch(settings: Kafka, topic: str, start: Start) -> tuple[dict[Partition, int], dict[Partition, int]]:
    """Where to begin in each partition, within what is there, and where it ends now."""
    with KafkaAdmin(settings, client_id="tidewatch-tail") as admin:
        found = admin.topics([topic]).get(topic)
        if found is None:
            raise _unknown(topic, admin.topic_names())
        partitions = [Partition(topic, number) for number in range(found.partitions)]
        end = admin.offsets(partitions, LATEST)
        if start is Edge.END:
            return end, end
        earliest = admin.offsets(partitions, EARLIEST)
        if isinstance(start, datetime):
            return admin.offsets(partitions, start), end
    wanted = start if isinstance(start, int) else 0
    return {place: min(max(wanted, earliest[place]), end[place]) for place in partitions}, end


def _unknown(topic: str, names: Sequence[str]) -> UsageError:
    shown = [name for name in names if not name.startswith("__")]
    near = difflib.get_close_matches(topic, shown, n=1)
    hint = f"did you mean {near[0]}? There are" if near else "there are"
    return UsageError(
        f"there is no topic {topic}", fix=f"{hint} {', '.join(shown) or 'none yet: `tidewatch spec apply`'}"
    )


def _at_end(error: KafkaError) -> bool:
    """Whether the partition has no more for now; what passes by itself, such as a broker's restart, is waited for."""
    if error.fatal():
        raise translate(error, "reading")
    return error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 — public, whatever its underscore says


def _record(message: Message) -> Record:
    _, milliseconds = message.timestamp()
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        time=datetime.fromtimestamp(milliseconds / 1000, UTC),
        key=_bytes(message.key()),
        value=_bytes(message.value()),
        headers=dict(headers_of(message) or []),
    )


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _values(value: Any, path: tuple[str, ...]) -> Iterator[Any]:
    if isinstance(value, list):
        for element in value:
            yield from _values(element, path)
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _values(value[path[0]], path[1:])


def _equal(value: Any, text: str) -> bool:
    """Numbers by their value, so that 3 equals 3.0; everything else by its text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(ValueError):
            return value == float(text) or str(value) == text
    return _text(value) == text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _finite(text: str) -> float:
    """What JSON cannot say, or cannot say back, is no JSON."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no JSON number")
    return number
