"""How well row-count anomalies are found: `python -m bench.detect --data DIR --json`.

Every series runs online, bucket by bucket, without labels; only the second half is scored. Two peers' rules run over the
same series. `--curve` also runs wider and narrower bands. docs/detection.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench._detect_peers import PEERS
from bench._detect_score import Series, Tally, read, score
from bench._report import report
from controlplane.detectors.base import Judgement
from controlplane.detectors.row_counts import RowCounts
from controlplane.detectors.tuning import Tuning
from tidewatch.errors import TidewatchError, UsageError

HOUR = 3_600
CURVE = (0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.6, 2.0)
Rule = Callable[[Series], NDArray[np.bool_]]


def tidewatch(series: Series, tuning: Tuning | None = None) -> NDArray[np.bool_]:
    """Alarms of our detector, each bucket judged before it is learned."""
    detector = RowCounts(series.step, tuning=tuning)
    alarms = np.zeros(len(series.values), dtype=bool)
    for bucket, value in enumerate(series.values.tolist()):
        judged = detector.observe(series.start + bucket * series.step, None if value != value else value)  # noqa: PLR0124
        alarms[bucket] = isinstance(judged, Judgement) and judged.anomalous
    return alarms


def widened(factor: float) -> Rule:
    plain = Tuning()
    tuning = replace(plain, spreads=plain.spreads * factor, beyond_usual=plain.beyond_usual * factor)
    return lambda series: tidewatch(series, tuning)


def peer(name: str) -> Rule:
    return lambda series: PEERS[name](series.values, series.step)


class Run:
    """Tallies of one rule: all series, the hourly ones, and each."""

    def __init__(self) -> None:
        self.all, self.hourly = Tally(), Tally()
        self.each: dict[str, Any] = {}

    def add(self, series: Series, tally: Tally) -> None:
        self.each[series.name] = {"step": series.step, **tally.figures()}
        self.all += tally
        if series.step == HOUR:
            self.hourly += tally

    def figures(self) -> dict[str, Any]:
        return {**self.all.figures(), "hourly": self.hourly.figures()}


def run(rules: dict[str, Rule], every: Sequence[Series]) -> dict[str, Run]:
    runs = {name: Run() for name in rules}
    for number, series in enumerate(every, 1):
        for name, rule in rules.items():
            runs[name].add(series, score(series, rule(series)))
        _progress(number, len(every), series, runs)
    return runs


def _progress(number: int, total: int, series: Series, runs: dict[str, Run]) -> None:
    if number == 1:
        names = "".join(f"{name:>26}" for name in runs)
        print(f"{'':7} {'series':38} {'step':>6} {'events':>6}{names}   (found, false alarms a week)", file=sys.stderr)
    cells = []
    for one in runs.values():
        entry = one.each[series.name]
        cells.append(f"{entry['found']:>16} {entry['false_alarms_per_series_week']:>9.2f}")
    events = next(iter(runs.values())).each[series.name]["events"]
    name = series.name[:38]
    print(f"{number:>3}/{total:<3} {name:38} {series.step:>6} {events:>6}{''.join(cells)}", file=sys.stderr, flush=True)


def measure(directory: Path, *, curve: bool) -> dict[str, Any]:
    every = read(directory)
    started, buckets = time.perf_counter(), sum(len(series.values) for series in every)
    ours = run({"tidewatch": tidewatch}, every)["tidewatch"]
    seconds = time.perf_counter() - started
    print("peers:", file=sys.stderr)
    peers = run({name: peer(name) for name in PEERS}, every)
    figures = {
        "data": directory.name,
        **ours.figures(),
        "us_per_bucket": round(seconds / buckets * 1e6, 1),
        "peers": {name: one.figures() for name, one in peers.items()},
        "per_series": ours.each,
    }
    if curve:
        wider = run({f"x{factor}": widened(factor) for factor in CURVE}, every)
        figures["curve"] = {name: _point(one) for name, one in wider.items()}
    return figures


def _point(one: Run) -> dict[str, Any]:
    return {
        scope: {key: tally.figures()[key] for key in ("recall", "precision", "false_alarms_per_series_week")}
        for scope, tally in (("all", one.all), ("hourly", one.hourly))
    }


def _directory(named: Path | None) -> Path:
    if named is not None:
        return named
    if not (data := os.environ.get("TIDEWATCH_DATA")):
        raise UsageError("no data set is named", fix="pass --data DIR, or set TIDEWATCH_DATA")
    return Path(data) / "series" / "microsoft"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.detect", description=__doc__)
    parser.add_argument("--data", type=Path, help="series/NAME.csv.gz and labels.json; default: Microsoft's set")
    parser.add_argument("--json", action="store_true", help="the figures as the last line of output")
    parser.add_argument("--curve", action="store_true", help="also with bands 0.6 to 2 times as wide")
    options = parser.parse_args(arguments)
    try:
        figures = measure(_directory(options.data), curve=options.curve)
    except TidewatchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    report("detect", figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
