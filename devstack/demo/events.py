"""What is sent, in the order in which it happened: a stream a pipeline and project."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

Event = dict[str, Any]


@dataclass(frozen=True)
class Stream:
    """`events` makes a new iterator at each call, oldest event first; `path` is where they are sent."""

    pipeline: str
    project: str
    path: str
    batch: int
    """Events a request; 1 sends the bare object."""
    events: Callable[[], Iterator[Event]]


def shifted(events: Iterable[Event], field: str, last: datetime, now: datetime) -> Iterator[Event]:
    """The events with `field` moved so that `last` becomes `now`; distances between events stay."""
    shift = now - last
    for event in events:
        moved = datetime.fromisoformat(event[field]) + shift
        yield event | {field: timestamp(moved)}


def timestamp(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def spread(now: datetime, span: timedelta, count: int) -> Iterator[datetime]:
    """`count` times that end at `now`, evenly apart."""
    for index in range(count):
        yield now - span * ((count - 1 - index) / max(1, count - 1))
