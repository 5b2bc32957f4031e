"""When a bucket is finished: how late rows come, learned, and the share of a bucket that must have arrived by now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controlplane.detectors.base import NotJudged

SHORTEST, LONGEST, PER_DECADE = 0.01, 30 * 86_400.0, 40
"""Seconds. Delays are kept as a histogram: 40 bins to a factor of ten, so a quantile is right to 6 %, on the late side."""
LEAST_ROWS = 200.0
"""Fewer known delays than this say nothing of a 99 % quantile."""
SLICES = 60


class ArrivalDelays:
    """Delays from a row's own time to its arrival in the table, of one pipeline.

    Feed the rows that arrived lately, by arrival: taken by event time, the late ones of the last buckets would still be
    missing. Old rows fade, by half every `half_life` rows.
    """

    def __init__(self, half_life: float = 1_000_000.0) -> None:
        decades = np.log10(LONGEST / SHORTEST)
        self._ends = SHORTEST * 10 ** (np.arange(int(np.ceil(decades * PER_DECADE)) + 1) / PER_DECADE)
        self._rows = np.zeros(len(self._ends) + 1)
        self._half_life = half_life

    def learn(self, delays: Sequence[float], rows: Sequence[float] | None = None) -> None:
        """Delays in seconds, each of so many rows (one, by default). A row ahead of its time counts as immediate."""
        counted = np.ones(len(delays)) if rows is None else np.asarray(rows, dtype=np.float64)
        self._rows *= 0.5 ** (float(counted.sum()) / self._half_life)
        bins = np.searchsorted(self._ends, np.maximum(np.asarray(delays, dtype=np.float64), 0.0), side="left")
        np.add.at(self._rows, bins, counted)

    @property
    def known(self) -> float:
        """Rows that the histogram stands for, after fading."""
        return float(self._rows.sum())

    def quantile(self, share: float) -> float | NotJudged:
        """Seconds after which at least `share` of the rows had arrived."""
        if why := self._too_few():
            return why
        reached = np.cumsum(self._rows) / self.known
        found = int(np.searchsorted(reached, share - 1e-12, side="left"))
        return float(self._ends[min(found, len(self._ends) - 1)])

    def settled_share(self, start: float, end: float, now: float) -> float | NotJudged:
        """The share of the rows of [start, end) that have arrived by `now`, when rows come evenly over the bucket.

        Cautious: a delay counts as the upper end of its bin. Of a bucket that is still running, the rows that are yet
        to happen count as missing.
        """
        if why := self._too_few():
            return why
        ages = now - (start + (np.arange(SLICES) + 0.5) * (end - start) / SLICES)
        return float(self._within(ages).mean())

    def settled_at(self, start: float, end: float, share: float = 0.99) -> float | NotJudged:
        """The earliest time, to a second, at which `settled_share` reaches `share`."""
        if why := self._too_few():
            return why
        early, late = start, end + LONGEST
        while late - early > 1.0:
            middle = (early + late) / 2
            settled = self.settled_share(start, end, middle)
            early, late = (early, middle) if isinstance(settled, float) and settled >= share else (middle, late)
        return late

    def _too_few(self) -> NotJudged | None:
        if self.known >= LEAST_ROWS:
            return None
        return NotJudged(f"arrival delays of only {self.known:.0f} rows are known")

    def _within(
        self, ages: np.ndarray[tuple[int], np.dtype[np.float64]]
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        reached = np.concatenate(([0.0], np.cumsum(self._rows) / self.known))
        # Bins whose upper end lies at or before the age have arrived in full; those of the overflow bin never.
        shares: np.ndarray[tuple[int], np.dtype[np.float64]] = reached[np.searchsorted(self._ends, ages, side="right")]
        return shares
