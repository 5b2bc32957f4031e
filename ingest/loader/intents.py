"""What a loader writes into the metadata of a committed offset, and reads back after a crash.

An *intent* says: these ranges are being inserted as one block. The identical text stands in the metadata of each
partition it lists, put there by one OffsetCommit, before the insert begins. A *mark* says nothing but which incarnation
of the topic the offset belongs to. Numbers are base 36:

    tw1;TOPIC_ID
    tw1;TOPIC_ID;JUDGE;BORN;DEADLINE-BORN;MARK;p.first.length,…;p.first.length,…

The last part points at the dead letters of the block: ranges of the dead-letter topic that hold all of them, written
in the same Kafka transaction as this text. A list of dead offsets would outgrow the metadata when many are bad.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingest.loader.blocks import Range, Ranges

MAX_BYTES = 3072
"""The broker's limit, offset.metadata.max.bytes, is 4096 unless it was changed."""
MAX_RANGES = 90
"""So many always fit, whatever their numbers, beside MAX_LETTERS."""
MAX_LETTERS = 16
MIXED = "-"
_VERSION = "tw1"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Intent:
    topic_id: str
    ranges: Ranges
    judge: str
    """Names the statement that decides what is a bad record; MIXED when loaders that decide differently were at it."""
    born: int
    """Seconds since 1970 by the server's clock, at the first attempt. A renewal keeps it."""
    deadline: int
    """The server refuses the insert when its own clock is past this."""
    mark: int
    """How many blocks the tables had seen at the first attempt, at the least; tells how far the window has moved."""
    letters: Ranges = ()
    """Where in the dead-letter topic the block's letters stand."""

    def same_block(self, other: Intent | None) -> bool:
        return other is not None and (self.topic_id, self.ranges) == (other.topic_id, other.ranges)

    def renewed(self, deadline: int, judge: str) -> Intent:
        """For one more attempt, by a loader that judges by `judge`."""
        return replace(self, deadline=max(self.deadline, deadline), judge=judge if judge == self.judge else MIXED)


@dataclass(frozen=True, slots=True)
class Note:
    """Metadata, understood. An empty `topic_id`: not written by a loader, as after an operator's reset."""

    topic_id: str = ""
    intent: Intent | None = None


class NewerIntent(ValueError):
    """Written by a loader that knows more than this one."""


def encode(intent: Intent) -> str:
    """Raises ValueError for one that does not fit; blocks of at most MAX_RANGES partitions always do."""
    numbers = (intent.born, intent.deadline - intent.born, intent.mark)
    parts = (mark(intent.topic_id), intent.judge, *map(_base36, numbers), _encode_ranges(intent.ranges))
    text = ";".join((*parts, _encode_ranges(intent.letters)))
    if len(text) > MAX_BYTES:
        raise ValueError(f"an intent of {len(text)} bytes does not fit into {MAX_BYTES}")
    return text


def mark(topic_id: str) -> str:
    return f"{_VERSION};{topic_id}"


def decode(metadata: str | None) -> Note:
    """Text of other tools is no note at all; raises NewerIntent for a version that this loader does not know.

    confluent-kafka ends the text that it commits with a NUL.
    """
    parts = (metadata or "").rstrip("\0").split(";")
    if parts[0] != _VERSION:
        if parts[0].startswith("tw") and parts[0][2:].isdecimal():
            raise NewerIntent(f"offset metadata of version {parts[0]}")
        return Note()
    if len(parts) == 2:
        return Note(parts[1])
    if len(parts) != 8:
        raise NewerIntent(f"offset metadata of {len(parts)} parts")
    topic_id, judge, born, ttl, seen, ranges, letters = parts[1:]
    start = int(born, 36)
    deadline = start + int(ttl, 36)
    intent = Intent(topic_id, _decode_ranges(ranges), judge, start, deadline, int(seen, 36), _decode_ranges(letters))
    return Note(topic_id, intent)


def _encode_ranges(ranges: Ranges) -> str:
    return ",".join(f"{_base36(r.partition)}.{_base36(r.first)}.{_base36(r.last - r.first)}" for r in ranges)


def _decode_ranges(text: str) -> Ranges:
    triples = (tuple(int(number, 36) for number in part.split(".")) for part in text.split(",") if part)
    return tuple(Range(partition, first, first + length) for partition, first, length in triples)


def _base36(number: int) -> str:
    if number < 36:
        return _DIGITS[number]
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits
