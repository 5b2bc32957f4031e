"""Row counts per bucket, judged online: each against a band learned from its own past, never from itself.

One `RowCounts` per series (a pipeline, or one value of a declared dimension). `observe` judges, then learns; `judge`
only judges. State is 15 KB at hourly buckets; a step costs about 0.2 ms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from controlplane.detectors.base import Interval, Judged, Judgement, NotJudged, Verdict, rows
from controlplane.detectors.baseline import Baseline, Expected
from controlplane.detectors.memory import Array
from controlplane.detectors.presence import zero
from controlplane.detectors.small_counts import LARGE, count_band
from controlplane.detectors.surprises import Surprises
from controlplane.detectors.tuning import Tuning
from controlplane.detectors.wallclock import WallClock, buckets_per_day

POISSON_ROOT = 0.5
"""Standard deviation of the root of a Poisson count: no count is steadier by nature."""
REMARKABLE = 2.0
"""Spreads from which on a residual is a surprise to remember."""
MOST_DISPERSED = 25.0
"""Variance ÷ mean from which on the count model is left for the spread of roots."""
LEAST_SURGE = 5.0
"""Where no rows are expected, so few are no surge."""


@dataclass(frozen=True, slots=True)
class _Outlook:
    """What is expected of one bucket."""

    expected: Expected
    low: float
    high: float
    comparable: Array


class RowCounts:
    """The past of one series, and what it leads to expect. Times are unix seconds of a bucket's start."""

    def __init__(self, step: int, wallclock: WallClock | None = None, tuning: Tuning | None = None) -> None:
        """Raises UsageError when `step` (seconds) does not divide a day."""
        self.step = step
        self.per_day = buckets_per_day(step)
        self._tuning = tuning or Tuning()
        self._wallclock = wallclock or WallClock()
        self._baseline = Baseline(self.per_day, self._tuning)
        apart = max(1, self._tuning.surprise_hours_apart * self.per_day // 24)
        keep = self._tuning.surprise_days * self.per_day
        self._too_many = Surprises(apart=apart, keep=keep)
        self._too_few = Surprises(apart=apart, keep=keep)
        self._first: int | None = None
        self._last_at = -math.inf
        self._counts = True

    def observe(
        self, at: float, observed: float | None, *, settled: float = 1.0, excluded: Iterable[Interval] = ()
    ) -> Judged:
        """Judge the bucket that starts at `at`, then learn it.

        Not learned: what is unfinished, excluded, unmeasured or no count; and holidays, which are judged all the same.
        """
        if at <= self._last_at:
            return NotJudged("older than the last bucket that was learned")
        if (reason := self._unfit(at, observed, settled, excluded)) or observed is None:
            return NotJudged(reason or "not measured")
        bucket = self._wallclock.bucket(at, self.step)
        outlook = self._outlook(at, bucket)
        judged = self._verdict(outlook, observed, bucket)
        self._last_at = at
        if not self._wallclock.is_holiday(at):
            self._learn(bucket, observed, outlook, alarmed=isinstance(judged, Judgement) and judged.anomalous)
        return judged

    def judge(
        self, at: float, observed: float | None, *, settled: float = 1.0, excluded: Iterable[Interval] = ()
    ) -> Judged:
        """The same judgement; nothing is learned."""
        if (reason := self._unfit(at, observed, settled, excluded)) or observed is None:
            return NotJudged(reason or "not measured")
        bucket = self._wallclock.bucket(at, self.step)
        return self._verdict(self._outlook(at, bucket), observed, bucket)

    def forget(self, interval: Interval) -> None:
        """Take an incident or a replay that became known later out of what was learned."""
        first = self._wallclock.bucket(interval.start, self.step)
        last = self._wallclock.bucket(math.nextafter(interval.end, -math.inf), self.step)
        self._baseline.forget(first, last)
        self._too_many.forget(first, last)
        self._too_few.forget(first, last)

    def _unfit(self, at: float, observed: float | None, settled: float, excluded: Iterable[Interval]) -> str | None:
        for interval in excluded:
            if interval.covers(at, at + self.step):
                return f"excluded: {interval.what}"
        if observed is None:
            return "not measured"
        if settled < self._tuning.settled:
            return f"unfinished: {settled:.0%} of its rows have arrived"
        if not (math.isfinite(observed) and observed >= 0):
            return f"{observed} is no count"
        return None

    def _outlook(self, at: float, bucket: int) -> _Outlook | None:
        expected = self._baseline.expect(bucket, least_spread=POISSON_ROOT if self._counts else 0.0)
        if expected is None:
            return None
        centres, comparable = [expected.centre], self._baseline.comparable(bucket)
        if self._wallclock.is_holiday(at):
            # A holiday may look like itself on any weekday, or like a Sunday.
            sundays = self._baseline.sundays(bucket, self._wallclock.days_since_sunday(at))
            comparable = np.sort(np.concatenate((comparable, sundays)))
            centres += [float(np.median(sundays))] if len(sundays) else []
        noise = [self._noise(centre, expected.spread) for centre in centres]
        low = min(min(centres) - self._usual(self._too_few, bucket, expected), *(below for below, _ in noise))
        high = max(max(centres) + self._usual(self._too_many, bucket, expected), *(above for _, above in noise))
        # Upwards also held against the whole fortnight: a quiet hour that doubles wakes nobody, a loss always counts.
        high += self._tuning.large_share * max(0.0, self._baseline.large - high)
        if len(comparable):
            # What half of all comparable buckets showed is usual, however the centre moved. Below by a spread more:
            # of a young series' quiet days one is known, or two.
            low = min(low, float(comparable[(len(comparable) - 1) // 4]) - expected.spread)
            high = max(high, float(comparable[-1 - (len(comparable) - 1) // 4]))
        return _Outlook(expected, *self._in_rows(max(0.0, low), high), comparable)

    def _noise(self, centre: float, spread: float) -> tuple[float, float]:
        """How far chance alone takes a root: by the count model where counts are small, by spreads elsewhere."""
        dispersion = self._dispersion(spread)
        if not self._counts or centre**2 >= LARGE or dispersion >= MOST_DISPERSED:
            reach = self._tuning.spreads * spread
            return centre - reach, centre + reach
        low, high = count_band(centre**2, dispersion, self._tuning.chance)
        return math.sqrt(low), math.sqrt(max(high, LEAST_SURGE))

    def _usual(self, side: Surprises, bucket: int, expected: Expected) -> float:
        """How far this series strays now and then."""
        weeks = min(self._tuning.surprise_days / 7, (bucket - (self._first or 0)) / (7 * self.per_day))
        times = max(1, int(self._tuning.surprises_per_week * weeks))
        return self._tuning.beyond_usual * side.usual(bucket, times) * expected.restless

    def _in_rows(self, low: float, high: float) -> tuple[float, float]:
        if not self._counts:
            return low**2, high**2
        # Whole rows; the slack is what single precision loses.
        return math.ceil(low**2 * (1 - 1e-6) - 1e-6), math.floor(high**2 * (1 + 1e-6) + 1e-6)

    @staticmethod
    def _dispersion(spread: float) -> float:
        return min(MOST_DISPERSED, max(1.0, (spread / POISSON_ROOT) ** 2))

    def _verdict(self, outlook: _Outlook | None, observed: float, bucket: int) -> Judged:
        if outlook is None:
            days = 0.0 if self._first is None else (bucket - self._first) / self.per_day
            return NotJudged(f"too little history: {days:.1f} days")
        low, high = outlook.low, outlook.high
        if observed == 0:
            found = zero(
                centre=outlook.expected.centre,
                spread=outlook.expected.spread,
                dispersion=self._dispersion(outlook.expected.spread) if self._counts else None,
                comparable=outlook.comparable,
                band=(low, high),
                tuning=self._tuning,
            )
            if found:
                return found
        band = f"{rows(low)} to {rows(high)} expected"
        if observed < low:
            return Judgement(observed, low, high, low - observed, Verdict.LOW, f"{rows(observed)} rows, {band}")
        verdict = Verdict.HIGH if observed > high else Verdict.NORMAL
        return Judgement(observed, low, high, 0.0, verdict, f"{rows(observed)} rows, {band}")

    def _learn(self, bucket: int, observed: float, outlook: _Outlook | None, *, alarmed: bool) -> None:
        self._first = bucket if self._first is None else self._first
        self._counts = self._counts and float(observed).is_integer()
        root = math.sqrt(observed)
        expected = outlook.expected if outlook else None
        if expected:
            residual = root - expected.centre
            if abs(residual) > REMARKABLE * expected.spread:
                side = self._too_many if residual > 0 else self._too_few
                side.add(bucket, abs(residual) / expected.restless)
        self._baseline.learn(bucket, root, expected, alarmed=alarmed)
