"""Sliding-window limits, in process, with a Retry-After that is true.

A window is cut into slots. What was taken in a slot leaves the window when the slot's end is one window old, so the
moment at which a refused request would pass is known exactly. A limit may thereby hold a little longer than its window
(one slot in sixty), never shorter.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from tidewatch.contracts import Limit

_SLOTS = 60
# Addresses are the caller's to choose, so the memory for them is bounded; the one unused for longest goes first.
_MAX_HOLDERS = 100_000


class TooLarge(Exception):
    """More at once than `limit` allows in a whole window: no waiting helps."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(str(limit))
        self.limit = limit


class Window:
    """How much of one limit is used."""

    __slots__ = ("_slots", "_taken", "_width", "limit")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._width = limit.seconds / _SLOTS
        self._slots: deque[list[int]] = deque()
        self._taken = 0

    def wait(self, count: int, now: float) -> float:
        """Seconds until `count` more would fit: 0 when they do. Raises TooLarge when they never will."""
        if count > self.limit.count:
            raise TooLarge(self.limit)
        current = int(now / self._width)
        while self._slots and self._slots[0][0] + _SLOTS < current:
            self._taken -= self._slots.popleft()[1]
        excess = self._taken + count - self.limit.count
        if excess <= 0:
            return 0.0
        for slot, taken in self._slots:
            excess -= taken
            if excess <= 0:
                return (slot + _SLOTS + 1) * self._width - now
        raise AssertionError("the slots hold less than what was taken")

    def take(self, count: int, now: float) -> None:
        current = int(now / self._width)
        if self._slots and self._slots[-1][0] == current:
            self._slots[-1][1] += count
        else:
            self._slots.append([current, count])
        self._taken += count


class Rate:
    """So many a second, without anybody waiting."""

    def __init__(self, count: int) -> None:
        self._window = Window(Limit("requests", count, 1))

    def allows(self, now: float) -> bool:
        if self._window.wait(1, now) > 0:
            return False
        self._window.take(1, now)
        return True


class Limiter:
    """The windows of many holders (projects, addresses)."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[tuple[Limit, ...], list[Window]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, holder: str, limits: tuple[Limit, ...], *, requests: int, events: int, now: float) -> float:
        """Take all and return 0, or take nothing and return the seconds to wait. Raises TooLarge."""
        windows = self._of(holder, limits)
        wait = max(window.wait(_count(window, requests, events), now) for window in windows)
        if wait == 0:
            for window in windows:
                window.take(_count(window, requests, events), now)
        return wait

    def _of(self, holder: str, limits: tuple[Limit, ...]) -> Iterable[Window]:
        found = self._windows.get(holder)
        if found is None or found[0] != limits:
            found = (limits, [Window(limit) for limit in limits])
            self._windows[holder] = found
            if len(self._windows) > _MAX_HOLDERS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(holder)
        return found[1]


def _count(window: Window, requests: int, events: int) -> int:
    return requests if window.limit.of == "requests" else events
