"""How far a series strays now and then: the height of the surprise that comes about so many times a week.

A robust spread alone says nothing of the tail, and tails differ most between series: a nightly import that doubles
every Tuesday is no anomaly by Wednesday. Surprises are counted as events (one per outage, however long), so that a long
outage does not teach the series that outages are usual.
"""

from __future__ import annotations

from typing import NamedTuple


class Surprise(NamedTuple):
    bucket: int
    height: float


class Surprises:
    """One side (rows too many, or too few). Heights are in roots of rows."""

    def __init__(self, *, apart: int, keep: int) -> None:
        """Surprises less than `apart` buckets from one another are one; they are forgotten after `keep` buckets."""
        self._apart = apart
        self._keep = keep
        self._events: list[Surprise] = []
        self._last = -apart - 1

    def add(self, bucket: int, height: float) -> None:
        if self._events and bucket - self._last <= self._apart:
            self._events[-1] = Surprise(bucket, max(height, self._events[-1].height))
        else:
            self._events = [event for event in self._events if event.bucket > bucket - self._keep]
            self._events.append(Surprise(bucket, height))
        self._last = bucket

    def usual(self, bucket: int, times: int) -> float:
        """The height that was reached `times` times in the memory before `bucket`; 0 when fewer surprises came."""
        heights = sorted((e.height for e in self._events if e.bucket > bucket - self._keep), reverse=True)
        return heights[times - 1] if len(heights) >= times else 0.0

    def forget(self, first: int, last: int) -> None:
        self._events = [event for event in self._events if not first <= event.bucket <= last]
