"""A window of broker append time, as an operator writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from tidewatch.errors import UsageError

_AGO = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DAY = re.compile(r"(today|yesterday)(?:[ T](\d{1,2}:\d{2}(?::\d{2})?))?")
_FIX = "write 10m, 2h, 3d (ago), now, today, yesterday 02:00, or RFC 3339 such as 2026-03-01T02:00:00Z; times are UTC"


@dataclass(frozen=True, slots=True)
class Window:
    """`since <= append time < until`; None is open: from the oldest that can be known, to what is there now."""

    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise UsageError(
                f"the window is empty: {self.since.isoformat()} is not before {self.until.isoformat()}",
                fix="let --from be earlier than --to",
            )


def parse_time(text: str, now: datetime) -> datetime:
    """`10m` is ten minutes before `now`. Raises UsageError for what is no time."""
    if text == "now":
        return now
    if match := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[match[2]]: float(match[1])})
    if match := _DAY.fullmatch(text):
        day = now.astimezone(UTC).date() - timedelta(days=match[1] == "yesterday")
        return datetime.combine(day, _clock(match[2] or "00:00", text), tzinfo=UTC)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time", fix=_FIX) from None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def _clock(text: str, whole: str) -> time:
    try:
        return time.fromisoformat(text if text[1] != ":" else f"0{text}")
    except ValueError:
        raise UsageError(f"{whole!r} is no time", fix=_FIX) from None
