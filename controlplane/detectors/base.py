"""What every detector answers: a judgement with the band that it was held against, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    NORMAL = "normal"
    LOW = "low"
    HIGH = "high"
    ZERO = "zero"
    """No rows where this time of day has always had some."""
    ABSENT = "absent"
    """No reading at all: not a zero."""
    BELOW_MINIMUM = "below_minimum"
    """Fewer rows than the spec demands, whatever the past looked like."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One tested value against what was expected of it. `observed` is None only when the verdict is ABSENT."""

    observed: float | None
    expected_low: float
    expected_high: float
    missing: float
    """Rows short of `expected_low`: at least so many did not come."""
    verdict: Verdict
    why: str

    @property
    def anomalous(self) -> bool:
        return self.verdict is not Verdict.NORMAL


@dataclass(frozen=True, slots=True)
class NotJudged:
    """Nothing can be said, because …: never a guess, and never "normal"."""

    why: str


Judged = Judgement | NotJudged


class Interval(NamedTuple):
    """Unix seconds, from `start` up to and without `end`; `what` says why (a known incident, a replay)."""

    start: float
    end: float
    what: str = "a known incident"

    def covers(self, start: float, end: float) -> bool:
        """Does any of [start, end) lie in here?"""
        return self.start < end and start < self.end


def rows(count: float) -> str:
    """A row count as people write it: 1,000 or, for means and rates, three digits."""
    if abs(count) >= 100 or float(count).is_integer():
        return f"{count:,.0f}"
    return f"{count:.3g}"
