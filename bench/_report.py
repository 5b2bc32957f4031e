"""How every benchmark ends: its figures in bench/results/NAME.json and as the last line of its output."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def report(name: str, figures: Mapping[str, Any]) -> None:
    """`figures` keep their keys; machine and time are added."""
    machine = {"cpu": _cpu(), "cores": len(_affinity()), "python": platform.python_version()}
    result = {**figures, "benchmark": name, "at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _affinity() -> set[int]:
    return os.sched_getaffinity(0)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
