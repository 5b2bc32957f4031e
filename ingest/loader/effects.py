"""What the algorithm asks of the world, one at a time, and what the world may answer.

A course (course.py) yields an effect and is sent its answer; it does nothing else. The lane carries effects out for
real; the model test simulates them, crashes between them, and lets them arrive late.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ingest.loader.blocks import Block, Position, Range, Ranges

T = TypeVar("T")


class Committed(NamedTuple):
    """An offset as Kafka has it; below zero where none was committed."""

    offset: int
    metadata: str


class Trouble(Enum):
    """Why an insert did not succeed."""

    BAD_RECORD = "bad_record"
    """A record could not become a row; nothing was written."""
    DEADLINE = "deadline"
    """The server refused: the deadline has passed."""
    UNAVAILABLE = "unavailable"
    """No answer, or an answer that says nothing: the rows may be written or not."""
    THROTTLED = "throttled"
    """Too many parts, too much memory, too many queries."""
    VIEW = "view"
    """The raw part may be written while a view is not."""
    REFUSED = "refused"
    """Anything else that the server said."""
    KAFKA = "kafka"
    """The broker did not take a commit or a transaction."""
    MOSTLY_BAD = "mostly_bad"
    """The circuit: so much is bad that the fault is not in the records."""
    UNEXPLAINED = "unexplained"
    """The insert says that a record is bad, and the query for it finds none."""


class Landed(NamedTuple):
    """The rows of the block are in the table and its views."""


class Failed(NamedTuple):
    trouble: Trouble
    message: str


class Bad(NamedTuple):
    position: Position
    error: str
    field: str
    message: str


class CommitResult(Enum):
    DONE = "done"
    AGAIN = "again"
    """Not applied, applied, or nobody knows."""


class Gauge(NamedTuple):
    """`now` in seconds by the server's clock; `mark`: blocks that the tables have seen, growing."""

    now: int
    mark: int


# Effects, each with its answer.


class Next(NamedTuple):
    """Collect a batch. Answer: Batch; None when partitions wait for recovery, none arrives for a while, or at a stop."""


class Batch(NamedTuple):
    lasts: Mapping[int, int]
    """Partition → offset of the last record collected."""
    rows: Any


class Closing(NamedTuple):
    """A range that a commit finalises, for the ledger."""

    range: Range
    block: Block
    letters: int
    """How many of its records became letters."""


class Commit(NamedTuple):
    """One synchronous OffsetCommit. Answer: CommitResult."""

    offsets: Mapping[int, Committed]
    closes: tuple[Closing, ...] = ()


class Insert(NamedTuple):
    """Answer: Landed or Failed. `block.skip` is left out; the server refuses when it is later than `deadline`."""

    block: Block
    token: str
    deadline: int


class FindBad(NamedTuple):
    """By a read-only query over the rows of the block. Answer: list[Bad], or Failed."""

    block: Block


class Bury(NamedTuple):
    """One Kafka transaction: the letters, and offsets whose metadata says where they stand. `offsets` is called with
    the ranges that the letters got in the dead-letter topic. Answer: (CommitResult, those ranges).
    """

    block: Block
    bad: list[Bad]
    offsets: Callable[[Ranges], Mapping[int, Committed]]


class ReadCommitted(NamedTuple):
    """Stable offsets, also of partitions that others hold. Answer: Mapping[int, Committed], or Failed."""

    partitions: tuple[int, ...]


class Rebuild(NamedTuple):
    """Read the ranges again from the log, with a consumer outside the group. Answer: Rebuilt, or Failed."""

    ranges: Ranges


class Rebuilt(NamedTuple):
    rows: Any
    gone: Mapping[int, int]
    """Partition → how many offsets of its range retention has removed."""


class ReadLetters(NamedTuple):
    """Which records of `ranges` have letters in the given ranges of the dead-letter topic. Answer: set[Position], or Failed."""

    letters: Ranges
    ranges: Ranges


class Missing(NamedTuple):
    """Which records of the block are not in the table, and how many are. Answer: (set[Position], int), or Failed."""

    block: Block


class Measure(NamedTuple):
    """Answer: Gauge, or Failed. One that is not fresh may be some seconds old: its mark is then too low, never too high."""

    fresh: bool


class HaveRows(NamedTuple):
    """Of which of these partitions does the table, or the ledger, hold rows of this incarnation of the topic, at the
    given offset or beyond it? Answer: set[int], or Failed.
    """

    positions: Mapping[int, int]


class RebuildAggregates(NamedTuple):
    """Make the aggregates equal to the rows of the table, for all hours that have rows from the block's ranges. Answer:
    None, or Failed.
    """

    block: Block


class Wait(NamedTuple):
    """Keep the membership of the group alive for a while. Answer: ignored."""

    seconds: float
    trouble: Trouble
    message: str


class Rewind(NamedTuple):
    """Throw away what was collected, and collect again from the course's positions. Answer: ignored."""


class Resume(NamedTuple):
    """These partitions are recovered: collect from the course's positions. Answer: ignored."""

    partitions: tuple[int, ...]


class Halt(NamedTuple):
    """Stop for good and page. No answer: the course ends."""

    message: str


Effect: TypeAlias = (
    Next
    | Commit
    | Insert
    | FindBad
    | Bury
    | ReadCommitted
    | Rebuild
    | ReadLetters
    | Missing
    | Measure
    | HaveRows
    | RebuildAggregates
    | Wait
    | Rewind
    | Resume
    | Halt
)
Flow: TypeAlias = Generator[Effect, Any, T]
