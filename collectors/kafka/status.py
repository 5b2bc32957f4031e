"""How a group does on a partition, judged from a window of what was read: pure functions of arrays and time.

Burrow's statuses, with Burrow's rules where they are right and these differences where they err (docs/collectors.md):

- Whether a commit is late is judged by the pauses that this partition's commits usually have, never by the span of the
  last ten, so that one commit in the window is no alarm and a fast committer may take a breath.
- A partition counts as behind from when records began to wait for it, not from its last commit: the first record after
  a quiet night is no alarm.
- Growth is a trend of the whole window (Kendall's rank correlation), so that one dip hides none and a sawtooth is none.
- STOP means that the group has no members, STALL that it has and makes no progress: what Burrow tries to tell apart by
  commits of the same offset can be asked of the coordinator.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from collectors.kafka.offsets import NEVER, UNKNOWN, Offsets

Seconds = NDArray[np.float64]
# A lag that only wobbles reaches this in one window of 100,000; one dip in a steady growth leaves .80 of twenty readings.
_AGREEMENT = 0.75
_FEWEST_READINGS = 10


class Status(IntEnum):
    """In the order of severity: the worst partition is the group's status."""

    OK = 0
    NEVER = 1
    """Never committed: not behind by everything, and not caught up either."""
    UNKNOWN = 2
    """Behind, and not watched for long enough to say more."""
    UNMEASURED = 3
    WARN = 4
    """Behind, and more so all the time."""
    AHEAD = 5
    """The commit lies beyond the end: the topic was recreated, or its log truncated."""
    REWIND = 6
    """The commit went back and has not regained where it was."""
    STALL = 7
    """Records wait, members are there, and nothing is committed."""
    STOP = 8
    """Records wait and the group has no members."""

    @property
    def word(self) -> str:
        return self.name.lower()


# Those that say that something is wrong with the group.
TROUBLE = frozenset({Status.WARN, Status.AHEAD, Status.REWIND, Status.STALL, Status.STOP})


@dataclass(frozen=True)
class Rules:
    allowed: int = 0
    """Messages behind that count as none."""
    patience: float = 60.0
    """Seconds without a commit, with records waiting, that any consumer may take."""
    pauses: float = 3.0
    """… or so many of the longest pauses that it took of late and ended by itself."""


@dataclass(frozen=True)
class Window:
    """Readings of one group on one topic, the oldest first; columns are partitions. Times are monotonic seconds."""

    times: Seconds
    commits: Offsets
    ends: Offsets
    hidden: Offsets
    """Offsets between commit and end that hold no record for a consumer, such as transaction markers."""
    committed_at: Seconds
    """When the commit was last seen to move; when watching began, if it never was."""
    behind_since: Seconds
    """When records began to wait; NaN where none do."""
    pause: Seconds
    """The longest of the recent pauses between two moves; 0 where none is known."""
    watched_since: Seconds


def lag_of(commits: Offsets, ends: Offsets, hidden: Offsets) -> Offsets:
    """UNKNOWN where either is not known, or the commit lies beyond the end; NEVER where there is no commit."""
    lag: Offsets = np.maximum(ends - commits - hidden, 0)
    lag[(commits == UNKNOWN) | (ends == UNKNOWN) | (commits > ends)] = UNKNOWN
    lag[commits == NEVER] = NEVER
    return lag


def judge(window: Window, *, members: bool | None, rules: Rules) -> NDArray[np.int8]:
    """The Status of each partition. `members`: whether the group has any, None when that is not known."""
    commits, ends, now = window.commits[-1], window.ends[-1], window.times[-1]
    lag = lag_of(commits, ends, window.hidden)
    behind = lag > rules.allowed
    tolerance = np.maximum(rules.patience, rules.pauses * window.pause)
    waiting = stuck_seconds(window)
    late = behind & (waiting > tolerance)
    too_early = behind & (now - window.watched_since < rules.patience) & (window.committed_at <= window.watched_since)

    status = np.full(commits.shape, Status.OK, np.int8)
    status[behind & _growing(window)] = Status.WARN
    status[too_early] = Status.UNKNOWN
    status[late] = Status.STOP if members is False else Status.STALL
    status[behind & _went_back(window.commits)] = Status.REWIND
    status[(commits > ends) & (ends >= 0)] = Status.AHEAD
    status[(commits == UNKNOWN) | (ends == UNKNOWN)] = Status.UNMEASURED
    status[commits == NEVER] = Status.NEVER
    return status


def stuck_seconds(window: Window) -> Seconds:
    """For how long records have been waiting without a commit; 0 where none wait."""
    since = np.maximum(window.committed_at, window.behind_since)
    waiting: Seconds = np.nan_to_num(window.times[-1] - since, nan=0.0)
    return waiting


def _went_back(commits: Offsets) -> NDArray[np.bool_]:
    back: NDArray[np.bool_] = (commits[-1] >= 0) & (commits[-1] < commits.max(axis=0))
    return back


def _growing(window: Window) -> NDArray[np.bool_]:
    """Kendall's rank correlation of lag and time: how many of all pairs of readings are in growing order."""
    rows, width = window.commits.shape
    growing = np.zeros(width, np.bool_)
    behind = window.ends[-1] > window.commits[-1]
    if rows < _FEWEST_READINGS or not behind.any():
        return growing
    commits, ends = window.commits[:, behind], window.ends[:, behind]
    measured = (commits >= 0) & (ends >= 0)
    lags = np.where(measured, ends - commits, np.nan)  # which is neither more nor less than anything
    order = np.zeros(lags.shape[1], np.int16)
    for gap in range(1, rows):
        later, earlier = lags[gap:], lags[:-gap]
        order += (later > earlier).sum(axis=0, dtype=np.int16)
        order -= (later < earlier).sum(axis=0, dtype=np.int16)
    seen = measured.sum(axis=0)
    pairs = seen * (seen - 1) // 2
    growing[behind] = (seen >= _FEWEST_READINGS) & (order >= _AGREEMENT * pairs)
    return growing
