"""Labelled series from a directory, and how alarms are held against labels: by event, never point-adjusted."""

from __future__ import annotations

import csv
import gzip
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from controlplane.detectors.wallclock import DAY
from tidewatch.errors import UsageError

WEEK = 7 * DAY
LAYOUT = "a directory with labels.json and series/NAME.csv.gz (timestamp in unix seconds, value)"


@dataclass(frozen=True)
class Series:
    """Values on a regular grid that begins at `start`; nan where the file has no reading."""

    name: str
    start: int
    step: int
    values: NDArray[np.float64]
    windows: tuple[tuple[int, int], ...]
    """Labelled, as first and last bucket."""

    @property
    def half(self) -> int:
        """The first bucket that is scored."""
        return len(self.values) // 2


def read(directory: Path) -> list[Series]:
    """Raises UsageError for what is not of the layout."""
    try:
        labels = json.loads((directory / "labels.json").read_text(encoding="utf-8"))
        return [_series(directory / "series" / f"{name}.csv.gz", name, labels[name]) for name in sorted(labels)]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(f"{directory} cannot be read: {error}", fix=f"name {LAYOUT}") from error


def _series(path: Path, name: str, windows: Iterable[tuple[int, int]]) -> Series:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        readings = [(int(float(row["timestamp"])), float(row["value"])) for row in csv.DictReader(file)]
    readings.sort()
    times = np.array([at for at, _ in readings])
    step = _step(times)
    start = int(times[0])
    buckets = (times - start + step // 2) // step
    values = np.full(int(buckets[-1]) + 1, np.nan)
    values[buckets] = [value for _, value in readings]
    spans = tuple(((int(a) - start) // step, (int(b) - start) // step) for a, b in windows)
    return Series(name, start, step, values, spans)


def _step(times: NDArray[np.int64]) -> int:
    """The most usual distance, moved to the next one that divides a day."""
    usual = float(np.median(np.diff(times)))
    return min((s for s in range(1, DAY + 1) if DAY % s == 0), key=lambda s: abs(s - usual))


@dataclass
class Tally:
    """What alarms on some series come to. Rates are None where there is nothing to divide by."""

    events: int = 0
    found: int = 0
    alarms: int = 0
    true_alarms: int = 0
    weeks: float = 0.0
    series: int = 0
    delays: list[float] = field(default_factory=list)

    def __iadd__(self, other: Tally) -> Self:
        for name in ("events", "found", "alarms", "true_alarms", "weeks", "series"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.delays += other.delays
        return self

    @property
    def recall(self) -> float | None:
        return self.found / self.events if self.events else None

    @property
    def false_per_week(self) -> float:
        return (self.alarms - self.true_alarms) / self.weeks if self.weeks else 0.0

    def figures(self) -> dict[str, Any]:
        precision = self.true_alarms / self.alarms if self.alarms else None
        recall = self.recall
        both = precision is not None and recall is not None and precision + recall > 0
        return {
            "recall": _rounded(recall),
            "precision": _rounded(precision),
            "f1": _rounded(2 * precision * recall / (precision + recall)) if both and precision and recall else None,
            "false_alarms_per_series_week": round(self.false_per_week, 3),
            "median_delay_s": statistics.median(self.delays) if self.delays else None,
            "events": self.events,
            "found": self.found,
            "alarms": self.alarms,
            "series": self.series,
            "series_weeks": round(self.weeks, 1),
        }


def score(series: Series, alarms: NDArray[np.bool_]) -> Tally:
    """On the second half. An event is a window that begins there; it is found when any alarm falls inside.

    Consecutive alarmed buckets are one alarm, true when any of them lies in any window. A window that began in the
    first half is no event, and an alarm in it is not false.
    """
    scored = np.zeros(len(series.values), dtype=bool)
    scored[series.half :] = alarms[series.half :]
    labelled = np.zeros(len(series.values), dtype=bool)
    tally = Tally(series=1, weeks=(len(series.values) - series.half) * series.step / WEEK)
    for first, last in series.windows:
        labelled[max(0, first) : last + 1] = True
        if first >= series.half:
            tally.events += 1
            hits = np.flatnonzero(scored[first : last + 1])
            if len(hits):
                tally.found += 1
                tally.delays.append(float(hits[0]) * series.step)
    edges = np.diff(np.concatenate(([0], scored.astype(np.int8), [0])))
    for first, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        tally.alarms += 1
        tally.true_alarms += bool(labelled[first:end].any())
    return tally


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
