"""What a bucket's count should be: the same time of day and week, brought to the recent level, with a robust spread.

All in square roots of rows: the noise of counts is then the same at all levels, and a band scales with its series.
Two baselines run side by side, one of the very slot and one that also looks at the slots beside it; the one that erred
less in the past two weeks is believed. The first keeps the sharp edges of a nightly import, the second has more to
go by where traffic is smooth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlplane.detectors.memory import Array, Memory
from controlplane.detectors.tuning import Tuning

DAYS = range(1, 8)
WEEKS = range(1, 5)
SIGMA = 1.4826
"""Median absolute residual → standard deviation of normal noise."""
LEAST_RESIDUALS = 24
LEAST_SLOTS = 3
MOST_RESTLESS = 3.0


@dataclass(frozen=True, slots=True)
class Expected:
    """In roots. `bases` and `levels` are those of both baselines (nan: not known), for learning."""

    centre: float
    spread: float
    restless: float
    """How much more than usual this time of day strays: 1 to 3. `spread` allows for it already."""
    bases: tuple[float, float]
    levels: tuple[float, float]
    clipped: tuple[float, float]


class Baseline:
    """Fixed-size state of one series. Buckets are wall-clock bucket numbers, `per_day` of them a day."""

    def __init__(self, per_day: int, tuning: Tuning) -> None:
        self.per_day = per_day
        self._tuning = tuning
        self._hour = max(1, per_day // 24)
        window = max(tuning.spread_days * per_day, 2 * LEAST_RESIDUALS)
        self._roots = Memory(29 * per_day + 2 * self._hour)
        self._residuals = Memory(window, rows=2)
        self._levels = Memory(window, rows=2)
        self._recent: list[tuple[int, float, float]] = []
        self._lags = self._slot_lags()
        self._like = self._comparable_lags()
        self._around = self._around_lags(tuning.spread_days)
        self._week = np.arange(1, 7 * per_day + 1)
        self._lately = np.arange(1, tuning.spread_days * per_day + 1)
        self._spreads = [math.nan, math.nan]
        self._losses = [math.inf, math.inf]
        self._clips = [math.inf, math.inf]
        self._refresh_at = 0
        self.typical = math.nan
        """Median root of the past week."""
        self.large = 0.0
        """Root of what would be a large count at any hour: some deviations above the mean of the past two weeks."""

    def expect(self, bucket: int, *, least_spread: float) -> Expected | None:
        """None while the past holds too little that compares."""
        bases = tuple(self._base(bucket, which) for which in (0, 1))
        levels, clipped = self._level(bucket)
        known = [w for w in (0, 1) if not (math.isnan(bases[w]) or math.isnan(self._spreads[w]))]
        if not known:
            return None
        best = min(known, key=lambda which: self._losses[which])
        restless = self._restless(bucket, best)
        spread = max(self._spreads[best] * restless, self._granted(), least_spread, 1e-9)
        return Expected(max(0.0, bases[best] + clipped[best]), spread, restless, (bases[0], bases[1]), levels, clipped)

    def comparable(self, bucket: int) -> Array:
        """Roots at this time of day, sorted; the same weekday weighs four times."""
        return np.sort(self._roots.at(bucket, self._like))

    def sundays(self, bucket: int, days_since_sunday: int) -> Array:
        """Roots of the last four Sundays at this time of day."""
        first = days_since_sunday or 7
        return self._roots.at(bucket, np.array([(first + 7 * week) * self.per_day for week in range(4)]))

    def learn(self, bucket: int, root: float, expected: Expected | None, *, alarmed: bool) -> None:
        """`alarmed` values do not move the level, so that an outage does not become the new normal in an hour."""
        bases = expected.bases if expected else (self._base(bucket, 0), self._base(bucket, 1))
        levels, clipped = (expected.levels, expected.clipped) if expected else self._level(bucket)
        self._roots.put(bucket, root)
        self._residuals.put(bucket, root - bases[0] - clipped[0], root - bases[1] - clipped[1])
        self._levels.put(bucket, *levels)
        if not alarmed or math.isnan(levels[0]):
            self._recent = [*self._recent[1 - self._tuning.level_buckets :], (bucket, root - bases[0], root - bases[1])]
        if bucket >= self._refresh_at:
            self._refresh(bucket)

    def forget(self, first: int, last: int) -> None:
        """Errors made *after* these buckets because of them stay until they are two weeks old."""
        for memory in (self._roots, self._residuals, self._levels):
            memory.blank(first, last)
        self._recent = [entry for entry in self._recent if not first <= entry[0] <= last]
        self._refresh(max(self._refresh_at, last))

    def _base(self, bucket: int, which: int) -> float:
        past = self._roots.at(bucket, self._lags[which])
        return float(np.median(past)) if len(past) >= LEAST_SLOTS * (1 + which) else math.nan

    def _level(self, bucket: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Median of recent residuals of both baselines (nan: not known), and the same within the clip (0: not known)."""
        oldest = bucket - max(self._tuning.level_days * self.per_day, 2 * self._tuning.level_buckets)
        recent = [entry for entry in self._recent if entry[0] >= oldest]
        found = [_median([e[1] for e in recent]), _median([e[2] for e in recent])]
        clipped = [0.0 if math.isnan(x) else max(-c, min(c, x)) for x, c in zip(found, self._clips, strict=True)]
        return (found[0], found[1]), (clipped[0], clipped[1])

    def _restless(self, bucket: int, which: int) -> float:
        errors = np.abs(self._residuals.at(bucket, self._around, which))
        if len(errors) < LEAST_RESIDUALS // 2 or self._spreads[which] <= 0:
            return 1.0
        # The root of the ratio: so few errors are half believed.
        return min(MOST_RESTLESS, max(1.0, math.sqrt(SIGMA * float(np.median(errors)) / self._spreads[which])))

    def _granted(self) -> float:
        return 0.0 if math.isnan(self.typical) else self._tuning.least_spread * self.typical

    def _refresh(self, bucket: int) -> None:
        """Spreads and clips, once an hour at most: they hardly move in between."""
        self._refresh_at = bucket + self._hour
        week = self._roots.at(bucket + 1, self._week)
        self.typical = float(np.median(week)) if len(week) else math.nan
        lately = self._roots.at(bucket + 1, self._lately).astype(np.float64) ** 2
        self.large = math.sqrt(lately.mean() + self._tuning.large_deviations * lately.std()) if len(lately) else 0.0
        for which in (0, 1):
            errors = np.abs(self._residuals.all(which))
            if len(errors) < max(LEAST_RESIDUALS, self.per_day):
                continue
            spread = self._spreads[which] = SIGMA * float(np.median(errors))
            self._losses[which] = float(np.minimum(errors, 4 * spread + 1e-12).mean())
            levels = np.abs(self._levels.all(which))
            if len(levels) >= LEAST_RESIDUALS:
                own = SIGMA * float(np.median(levels))
                self._clips[which] = self._tuning.level_clip * max(own, spread, self._granted())

    def _slot_lags(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        day, week = self.per_day, 7 * self.per_day
        beside = max(1, self._hour // 2) if day >= 24 else 0
        days, weeks = [k * day for k in DAYS], [k * week for k in WEEKS]
        around = [lag + shift for lag in (*days, *weeks, *weeks) for shift in (-beside, 0, beside)]
        # The same weekday counts twice.
        return np.array([*days, *weeks, *weeks, *weeks]), np.array(around)

    def _around_lags(self, days: int) -> NDArray[np.int64]:
        """The same time of day, up to two hours to either side, on each of the days; none where a bucket is a day."""
        shifts = [hours * self._hour for hours in range(-2, 3)] if self.per_day >= 24 else []
        return np.array([day * self.per_day + shift for day in range(1, days) for shift in shifts], dtype=np.int64)

    def _comparable_lags(self) -> NDArray[np.int64]:
        day, week = self.per_day, 7 * self.per_day
        return np.array([*(k * day for k in DAYS if k != 7), *(k * week for k in WEEKS for _ in range(4))])


def _median(values: list[float]) -> float:
    known = sorted(value for value in values if not math.isnan(value))
    if len(known) < LEAST_SLOTS:
        return math.nan
    middle = len(known) // 2
    return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2
