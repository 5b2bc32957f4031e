"""One log of all services: collected in order of arrival, shown with a prefix each, in colour on a terminal."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from rich.text import Text

COLLECT_SECONDS = 0.1
COLOURS = ("cyan", "magenta", "green", "blue", "yellow", "bright_cyan", "bright_magenta", "bright_green")
LEVELS = {"debug": "dim", "warning": "yellow", "error": "bold red", "critical": "bold red"}
HIDDEN = frozenset({"event", "level", "time", "logger", "service"})
LONGEST_LINE = 4000
STACK = "stack"  # the name under which the stack itself speaks


@dataclass(frozen=True)
class Line:
    time: datetime
    service: str
    text: str

    def encode(self) -> str:
        return f"{self.time.isoformat()}\t{self.service}\t{self.text[:LONGEST_LINE]}\n"

    @classmethod
    def decode(cls, encoded: str) -> Line:
        time, service, text = encoded.rstrip("\n").split("\t", 2)
        return cls(datetime.fromisoformat(time), service, text)


class Collector:
    """Copies what services write to their own logs into the merged one, whole lines at a time."""

    def __init__(self, merged: Path, logs: Mapping[str, Path]) -> None:
        self.merged = merged
        self._logs = dict(logs)
        self._positions = {name: path.stat().st_size if path.exists() else 0 for name, path in logs.items()}
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="devstack-logs", daemon=True)

    def start(self) -> None:
        self.merged.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when everything that was written is in the merged log."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def say(self, text: str) -> None:
        """A line of the stack's own."""
        self._write([Line(datetime.now(UTC), STACK, text)])

    def _run(self) -> None:
        while not self._over.wait(COLLECT_SECONDS):
            self._collect()
        self._collect()

    def _collect(self) -> None:
        now = datetime.now(UTC)
        for service, path in self._logs.items():
            self._write([Line(now, service, text) for text in self._new_lines(service, path) if text.strip()])

    def _new_lines(self, service: str, path: Path) -> list[str]:
        if not path.exists():
            return []
        with path.open("rb") as log:
            log.seek(self._positions[service])
            whole = log.read().rpartition(b"\n")[0]
        self._positions[service] += len(whole) + 1 if whole else 0
        return whole.decode(errors="replace").splitlines()

    def _write(self, lines: list[Line]) -> None:
        if lines:
            with self._writing, self.merged.open("a", encoding="utf-8") as merged:
                merged.writelines(line.encode() for line in lines)


def last(merged: Path, count: int, services: frozenset[str]) -> list[Line]:
    """The last lines of the services, of all when none is named."""
    if not merged.exists():
        return []
    with merged.open(encoding="utf-8") as lines:
        found = (Line.decode(line) for line in lines if line.endswith("\n"))
        return list(deque((line for line in found if not services or line.service in services), maxlen=count))


def follow(merged: Path, over: threading.Event, services: frozenset[str] = frozenset()) -> Iterator[Line]:
    """Lines as they come, from now on, until `over` is set and the last one was given."""
    merged.touch()
    with merged.open(encoding="utf-8") as log:
        log.seek(0, 2)
        while True:
            ending = over.is_set()
            for line in _whole_lines(log):
                if not services or line.service in services:
                    yield line
            if ending:
                return
            over.wait(COLLECT_SECONDS)


def _whole_lines(log: IO[str]) -> Iterator[Line]:
    while True:
        position = log.tell()
        encoded = log.readline()
        if not encoded.endswith("\n"):
            log.seek(position)
            return
        yield Line.decode(encoded)


def render(line: Line, services: list[str]) -> Text:
    """Time, service and what it said; structured lines as `event key=value …`."""
    colour = COLOURS[services.index(line.service) % len(COLOURS)] if line.service in services else "bold"
    width = max(map(len, [*services, line.service]))
    text = Text().append(f"{line.time.astimezone():%H:%M:%S} ", style="dim")
    text.append(f"{line.service:<{width}} │ ", style=colour)
    return text.append_text(_said(line.text))


def _said(text: str) -> Text:
    try:
        said: Any = json.loads(text) if text.startswith("{") else None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return Text(text)
    level = str(said.get("level", "info"))
    shown = Text()
    if level in LEVELS:
        shown.append(f"{level} ", LEVELS[level])
    shown.append(str(said.get("event", "")), LEVELS.get(level))
    for key, value in said.items():
        if key not in HIDDEN:
            shown.append(f" {key}=", style="dim").append(value if isinstance(value, str) else json.dumps(value))
    return shown
