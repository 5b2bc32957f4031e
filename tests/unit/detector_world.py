"""Seeded traffic for the detectors' tests: a day and a week, noise of counts, and whatever is planted in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import numpy as np

from controlplane.detectors.base import Interval, Judged, Judgement, NotJudged, Verdict
from controlplane.detectors.row_counts import RowCounts
from controlplane.detectors.wallclock import WallClock

HOUR, DAY = 3_600, 86_400
MONDAY = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp())
WEEKS = 6
Plant = Callable[[int, float], float | None]
"""(hour since MONDAY, rows) → rows, or None for no reading."""


def shape(hour: float) -> float:
    """1 on average over a weekday; a quarter of it by night, half of it at the weekend."""
    day = 0.62 - 0.38 * np.cos(2 * np.pi * (hour % 24 - 2) / 24)
    return float(day * 1.6 * (0.5 if hour % 168 >= 120 else 1.0))


def traffic(mean: float, hours: int = WEEKS * 168, seed: int = 1, noise: float = 0.03) -> list[float]:
    """Poisson counts around the shape, which itself wavers by `noise`."""
    random = np.random.default_rng(seed)
    return [float(random.poisson(mean * shape(h) * random.lognormal(0, noise))) for h in range(hours)]


def nothing(_hour: int, rows: float) -> float | None:
    return rows


def between(first: int, last: int, change: Callable[[float], float | None]) -> Plant:
    """Change the hours from `first` to `last`, both included."""
    return lambda hour, rows: change(rows) if first <= hour <= last else rows


def watch(
    values: Iterable[float],
    plant: Plant = nothing,
    *,
    wallclock: WallClock | None = None,
    excluded: Iterable[Interval] = (),
    detector: RowCounts | None = None,
    start: int = MONDAY,
) -> dict[int, Judged]:
    """Online over the hours: what was said of each."""
    detector = detector or RowCounts(HOUR, wallclock)
    excluded = tuple(excluded)
    return {
        hour: detector.observe(start + hour * HOUR, plant(hour, rows), excluded=excluded)
        for hour, rows in enumerate(values)
    }


def verdict(judged: Judged) -> Verdict:
    assert isinstance(judged, Judgement), judged
    return judged.verdict


def alarms(said: dict[int, Judged], first: int = 0, last: int = 10**9) -> list[int]:
    return [h for h, j in said.items() if first <= h <= last and isinstance(j, Judgement) and j.anomalous]


def unjudged(said: dict[int, Judged], first: int, last: int) -> list[int]:
    return [hour for hour in range(first, last + 1) if isinstance(said[hour], NotJudged)]
