"""The sender's own memory of what it was told: the other side of the balance."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TextIO


@dataclass
class Journal:
    """Every answer, written to `path` as it arrives, so that the proof does not rest on this process alone."""

    path: Path
    sent: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, list[str]] = field(default_factory=dict)
    """Pipeline → ids of events answered as accepted."""
    dead_lettered: dict[str, list[str]] = field(default_factory=dict)
    """Pipeline → ids of events answered as accepted into the dead letters."""
    rejected: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(pipeline, field, reason) → events."""
    refused_requests: Counter[tuple[int, str]] = field(default_factory=Counter)
    """(HTTP status, title of the problem) → whole requests."""
    retried: int = 0
    _file: TextIO | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def accept(self, pipeline: str, event_id: str) -> None:
        self.accepted.setdefault(pipeline, []).append(event_id)
        self._write("accepted", pipeline, event_id)

    def dead_letter(self, pipeline: str, event_id: str) -> None:
        self.dead_lettered.setdefault(pipeline, []).append(event_id)
        self._write("dead_lettered", pipeline, event_id)

    def reject(self, pipeline: str, name: str, reason: str) -> None:
        self.rejected[pipeline, name, reason] += 1

    def total(self, kind: dict[str, list[str]]) -> int:
        return sum(map(len, kind.values()))

    def _write(self, status: str, pipeline: str, event_id: str) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"status": status, "pipeline": pipeline, "event_id": event_id}) + "\n")
