"""Where a lag is going: pure functions of rates."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from collectors.kafka.offsets import Offsets
from collectors.kafka.status import Seconds

# A consumer that is just as fast as the producer never catches up; this much faster is a plan.
_HEADROOM = 1.2


@dataclass(frozen=True)
class Drain:
    seconds: float
    """Until the lag is gone at today's rates; infinite when it is not shrinking."""
    members_needed: int | None
    """How many members would drain it; None when nothing is consumed, so that no rate is known."""


def rate(times: Seconds, offsets: Offsets) -> Seconds | None:
    """Offsets a second of each partition over the window; NaN where it cannot be told, None when it is too short.

    A partition counts from its first to its last reading that is known; going back counts as standing still.
    """
    if len(times) < 2:
        return None
    known = offsets >= 0
    first, last = known.argmax(axis=0), len(times) - 1 - known[::-1].argmax(axis=0)
    columns = np.arange(offsets.shape[1])
    seconds = times[last] - times[first]
    moved = np.maximum(offsets[last, columns] - offsets[first, columns], 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates: Seconds = np.where(known.any(axis=0) & (seconds > 0), moved / seconds, np.nan)
    return rates


def drain(lag: int, consumed: float, produced: float, members: int) -> Drain:
    """`consumed` and `produced` a second; `members` share the work evenly."""
    if lag <= 0:
        return Drain(0.0, members)
    if consumed <= 0:
        return Drain(inf, None)
    each = consumed / max(members, 1)
    needed = max(members, ceil(produced * _HEADROOM / each)) if consumed <= produced else members
    return Drain(lag / (consumed - produced) if consumed > produced else inf, needed)


def seconds_to_loss(retention: float, age: float) -> float:
    """Until retention by time may delete the oldest unread record; infinite when it is, never below zero.

    Kafka deletes whole segments by their youngest record, so that the loss comes no earlier than this.
    """
    return max(0.0, retention - age)
