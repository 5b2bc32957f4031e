"""What a collector is: something with a name and an interval that reports samples, and what it could not measure."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from threading import RLock
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import collectors
from tidewatch.clock import Clock, SystemClock
from tidewatch.errors import UsageError
from tidewatch.settings import Settings
from tidewatch.spec import Specs
from tidewatch.telemetry.exposition import Block
from tidewatch.telemetry.metrics import Metric

T = TypeVar("T")


class Sample(NamedTuple):
    """One value of one series; `labels` in the order in which the metric declares them."""

    metric: Metric
    labels: tuple[str, ...]
    value: float
    at: datetime


class Unmeasured(NamedTuple):
    """What is not known and why: never a zero instead.

    `source` names the thing (`group payments`, `broker 2`). `why` becomes a label, so it must read the same in every
    cycle of one outage: no durations, no counters.
    """

    source: str
    why: str
    at: datetime


class Bulk(NamedTuple):
    """Thousands of series of one metric, rendered in one stroke. Only one collector may report a metric in bulk."""

    block: Block
    values: Sequence[float]
    at: datetime


Reading = Sample | Unmeasured | Bulk


class Collector(Protocol):
    """One source of readings. `collect` runs in a thread of its own, one call at a time, and may block."""

    @property
    def name(self) -> str: ...

    @property
    def interval(self) -> float:
        """Seconds from the start of one cycle to the start of the next."""
        ...

    def collect(self) -> Iterable[Reading]:
        """The whole picture, each time: a series that is left out disappears.

        A part that fails becomes Unmeasured and the others go on. A TidewatchError means that nothing could be
        measured.
        """
        ...


@dataclass
class Context:
    """What collectors are built from. Not a registry of everything: settings, specs, time, and what they share."""

    settings: Settings
    specs: Specs
    clock: Clock = field(default_factory=SystemClock)
    _shared: dict[Any, Any] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)
    _closing: ExitStack = field(default_factory=ExitStack)

    def shared(self, make: Callable[[Context], T]) -> T:
        """What `make` made when it was first asked for; it is closed with this context when it has a `close`."""
        with self._lock:
            if make not in self._shared:
                made = self._shared[make] = make(self)
                if callable(close := getattr(made, "close", None)):
                    self._closing.callback(close)
            return cast("T", self._shared[make])

    def close(self) -> None:
        self._closing.close()


Builder = Callable[[Context], Collector]


def builders() -> dict[str, Builder]:
    """Every collector's builder by module name: what `COLLECTOR` of each module in this package is."""
    modules = sorted(m.name for m in pkgutil.iter_modules(collectors.__path__) if not m.ispkg and m.name != "base")
    return {name: importlib.import_module(f"collectors.{name}").COLLECTOR for name in modules}


def build(context: Context, only: Iterable[str] = ()) -> list[Collector]:
    """All collectors, or those named. Raises UsageError for a name that is none."""
    found = builders()
    wanted = list(only) or list(found)
    if unknown := sorted(set(wanted) - set(found)):
        raise UsageError(f"there is no collector {', '.join(unknown)}", fix=f"choose among {', '.join(found)}")
    return [found[name](context) for name in wanted]
