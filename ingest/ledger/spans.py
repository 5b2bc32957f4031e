"""Runs of offsets, for reports that name a thousand lost records in one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class Span:
    """`count` records among `first..last`; offsets between them that hold no record do not break a run."""

    partition: int
    first: int
    last: int
    count: int
    since_ms: int


class Spans:
    """Collects offsets that come in ascending order by partition; `cut` ends the run."""

    def __init__(self) -> None:
        self.found: list[Span] = []
        self._open = False

    @property
    def count(self) -> int:
        return sum(span.count for span in self.found)

    def add(self, partition: int, offset: int, appended_ms: int = 0) -> None:
        if self._open and self.found[-1].partition == partition:
            self.found[-1].last = offset
            self.found[-1].count += 1
        else:
            self.found.append(Span(partition, offset, offset, 1, appended_ms))
            self._open = True

    def cut(self) -> None:
        self._open = False


def runs(partition: int, offsets: Iterable[int]) -> list[Span]:
    """Runs of consecutive numbers."""
    spans = Spans()
    previous: int | None = None
    for offset in sorted(offsets):
        if previous is not None and offset != previous + 1:
            spans.cut()
        spans.add(partition, offset)
        previous = offset
    return spans.found
