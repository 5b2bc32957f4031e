"""A block: the unit of insertion. Ranges of offsets of one topic, and the rows found in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

Position = tuple[int, int]
"""(partition, offset)"""


class Range(NamedTuple):
    """Offsets `first` to `last` of a partition, both included. Offsets may be missing inside: that is legal in Kafka."""

    partition: int
    first: int
    last: int

    def holds(self, position: Position) -> bool:
        partition, offset = position
        return partition == self.partition and self.first <= offset <= self.last


Ranges = tuple[Range, ...]
"""Sorted by partition, one range each."""


def ranges_of(spans: Mapping[int, tuple[int, int]]) -> Ranges:
    """{partition: (first, last)} → Ranges."""
    return tuple(Range(partition, *spans[partition]) for partition in sorted(spans))


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a range of offsets unique in the world."""

    cluster: str
    group: str
    topic_id: str
    """Of this incarnation: a topic that was deleted and made again has another."""

    def token(self, ranges: Ranges) -> str:
        """ClickHouse drops an insert whose token it has seen, whatever its rows. So the token names exactly the rows:
        the whole of every range, as the intent has it, and never what one attempt happened to read or hold.
        """
        text = ",".join(f"{r.partition}:{r.first}-{r.last}" for r in ranges)
        return f"{self.cluster}:{self.group}:{self.topic_id}:{text}"


@dataclass(frozen=True, slots=True)
class Block:
    ranges: Ranges
    rows: Any
    """The records read from `ranges`: opaque to the algorithm."""
    claims: Mapping[int, int] = field(default_factory=dict)
    """Partition → ownership epoch under which this loader may commit; ranges outside are someone else's to commit."""
    skip: frozenset[Position] = frozenset()
    """Records that are dead letters, not rows."""
    gone: Mapping[int, int] = field(default_factory=dict)
    """Partition → offsets that retention removed before the block was rebuilt."""

    def without(self, positions: Iterable[Position]) -> Block:
        return replace(self, skip=self.skip | frozenset(positions))

    @property
    def partitions(self) -> tuple[int, ...]:
        return tuple(r.partition for r in self.ranges)
