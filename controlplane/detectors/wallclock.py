"""Which buckets are alike: the same time on the wall, and days that are no ordinary ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from tidewatch.errors import UsageError

DAY = 86_400


@dataclass(frozen=True)
class WallClock:
    """The zone in which the pipeline's users live, and their holidays.

    Buckets are numbered by local time, so a daylight shift moves nothing: after it, nine o'clock is still compared with
    nine o'clock. The hour that is skipped in spring stays empty; of the one that happens twice, the second counts.
    """

    zone: ZoneInfo | None = None
    """None is UTC."""
    holidays: frozenset[date] = field(default_factory=frozenset)

    def bucket(self, at: float, step: int) -> int:
        """The number of the bucket that holds the unix time `at`."""
        return int((at + self._offset(at)) // step)

    def is_holiday(self, at: float) -> bool:
        return bool(self.holidays) and self._local(at).date() in self.holidays

    def days_since_sunday(self, at: float) -> int:
        """0 on a Sunday, 6 on a Saturday."""
        return (self._local(at).weekday() + 1) % 7

    def _offset(self, at: float) -> float:
        if self.zone is None:
            return 0.0
        offset = self._local(at).utcoffset()
        return offset.total_seconds() if offset else 0.0

    def _local(self, at: float) -> datetime:
        return datetime.fromtimestamp(at, self.zone or UTC)


def buckets_per_day(step: int) -> int:
    """Raises UsageError when a day is not a whole number of buckets."""
    if step <= 0 or DAY % step:
        raise UsageError(
            f"buckets of {step} s do not fill a day", fix="choose a bucket that divides 24 hours, such as 1h"
        )
    return DAY // step
