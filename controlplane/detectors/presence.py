"""Detectors of nothing: a zero where there always was something, silence, and less than the spec demands.

They stand apart from the band, because a band learned from a ragged past may reach down to zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from controlplane.detectors.base import Interval, Judged, Judgement, NotJudged, Verdict, rows
from controlplane.detectors.memory import Array
from controlplane.detectors.small_counts import chance_of_zero, count_band
from controlplane.detectors.tuning import Tuning

FAR_FROM_ZERO = 3.0
"""Spreads between the centre and zero, for values that are no counts."""
LEAST_COMPARABLE = 6


def zero(
    *,
    centre: float,
    spread: float,
    dispersion: float | None,
    comparable: Array,
    band: tuple[float, float],
    tuning: Tuning,
) -> Judgement | None:
    """Is a zero an outage? None when it is not, or not certain. All but `band` is in roots of rows.

    It is when comparable buckets (same time of day) were hardly ever zero and chance does not explain it.
    `dispersion` None says that values are no counts.
    """
    if len(comparable) < LEAST_COMPARABLE or float(np.mean(comparable == 0)) > tuning.zero_share:
        return None
    mean, (low, high) = centre**2, band
    if dispersion is None:
        if centre <= FAR_FROM_ZERO * spread:
            return None
        least = (centre - FAR_FROM_ZERO * spread) ** 2
    else:
        if chance_of_zero(mean, dispersion) >= tuning.chance:
            return None
        rare = count_band(mean, dispersion, tuning.chance)[0]
        least = max(1.0, math.ceil(min(rare, max(0.0, centre - tuning.spreads * spread) ** 2)))
    least = max(low, least)
    why = f"0 rows, {rows(least)} to {rows(high)} expected: this time of day always had some"
    return Judgement(0.0, least, high, least, Verdict.ZERO, why)


def minimum(observed: float | None, at_least: int, *, settled: float = 1.0, needed: float = 0.99) -> Judged:
    """The spec's own demand on one period; no history is needed. A period that has enough already is never too early."""
    if observed is None:
        return NotJudged("not measured")
    if observed >= at_least:
        why = f"{rows(observed)} rows loaded, {rows(at_least)}+ expected"
        return Judgement(observed, at_least, math.inf, 0.0, Verdict.NORMAL, why)
    if settled < needed:
        return NotJudged(f"unfinished: {settled:.0%} of its rows have arrived")
    why = f"{rows(observed)} rows loaded, {rows(at_least)}+ expected"
    return Judgement(observed, at_least, math.inf, at_least - observed, Verdict.BELOW_MINIMUM, why)


class Absence:
    """Readings that stop coming. A missing reading is not a zero: the measurer may be blind, or the series gone.

    Usual pauses are learned: silence is remarkable when it lasts longer than any pause of the past four weeks, by half.
    """

    def __init__(self, step: float, *, memory_days: int = 28, least_buckets: int = 2) -> None:
        self._step = step
        self._memory = memory_days * 86_400
        self._least = least_buckets * step
        self._last: float | None = None
        self._pauses: list[tuple[float, float]] = []

    def seen(self, at: float, excluded: Iterable[Interval] = ()) -> None:
        """A reading of the bucket that starts at `at` came in. A pause that meets an excluded interval teaches nothing."""
        if self._last is not None and at > self._last + self._step:
            start = self._last + self._step
            if not any(interval.covers(start, at) for interval in excluded):
                self._pauses = [pause for pause in self._pauses if pause[0] > at - self._memory]
                self._pauses.append((at, at - start))
        self._last = at if self._last is None else max(at, self._last)

    def judge(self, now: float, excluded: Iterable[Interval] = ()) -> Judged:
        """ABSENT carries no band (nan): what should have come is not known here.

        `now` is when the newest bucket should have been read: allow for the time that rows take to settle.
        """
        if self._last is None:
            return NotJudged("never seen")
        due = self._last + self._step
        if any(interval.covers(due, now) for interval in excluded):
            return NotJudged("excluded: a known incident")
        silent = max(0.0, now - due)
        usual = max((length for at, length in self._pauses if at > now - self._memory), default=0.0)
        if silent < max(self._least, 1.5 * usual):
            return NotJudged("no reading is due")
        past = f"pauses were {_duration(usual)} at most" if usual else "where none was ever left out"
        why = f"no reading for {_duration(silent)}, {past}"
        return Judgement(None, math.nan, math.nan, math.nan, Verdict.ABSENT, why)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.0f} d"
