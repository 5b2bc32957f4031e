"""The judgements of the algorithm, each a pure function: windows, deadlines, waits, and when bad is too bad."""

from __future__ import annotations

from dataclasses import dataclass

from ingest.loader.effects import Gauge
from ingest.loader.intents import Intent


@dataclass(frozen=True, slots=True)
class Window:
    """How far back ClickHouse recognises a token: the least over the table and the targets of its views."""

    blocks: int | None = None
    seconds: int | None = None

    def used(self, intent: Intent, gauge: Gauge) -> float:
        """The share of the window that lies behind the block's first attempt."""
        crossed = (gauge.mark - intent.mark) / self.blocks if self.blocks else 0.0
        passed = (gauge.now - intent.born) / self.seconds if self.seconds else 0.0
        return max(crossed, passed)

    def near_end(self, intent: Intent, gauge: Gauge) -> bool:
        """At half of the window: what is in flight elsewhere moves it on while this loader looks."""
        return self.used(intent, gauge) >= 0.5


@dataclass(frozen=True, slots=True)
class Policy:
    window: Window
    judge: str = ""
    """Names the statement by which this loader decides what is a bad record."""
    deadline_seconds: int = 30
    """From an intent to the moment at which the server refuses its insert."""
    grace_seconds: int = 60
    """How long an insert that the server took in time may still run: max_execution_time, and what that overruns."""
    max_bad_share: float = 0.5
    min_bad: int = 1000
    longest_wait: float = 15.0

    def stale(self, intent: Intent, gauge: Gauge) -> bool:
        """Less than a third of the time is left: renew before the insert."""
        return (intent.deadline - gauge.now) * 3 < self.deadline_seconds

    def settled(self, intent: Intent, gauge: Gauge) -> bool:
        """Whatever insert was sent for this intent, by whomever, has ended."""
        return gauge.now > intent.deadline + self.grace_seconds

    def wait(self, attempt: int) -> float:
        return min(self.longest_wait, 0.1 * 2.0 ** min(attempt, 12))


class Tally:
    """Records and bad ones of late, forgotten at a rate of half every ten minutes.

    One bad record of one is no reason to stop; a thousand, most of what came, is: then a deploy, a schema or a
    producer is wrong, and a million letters would only be the same fault a million times over.
    """

    HALF_LIFE = 600

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._records = 0.0
        self._bad = 0.0
        self._at = 0
        self._pardoned = False

    def too_bad(self, records: int, bad: int, now: int) -> bool:
        """Whether the circuit opens at this block, were its records added."""
        self._fade(now)
        most = self._bad + bad > self._policy.max_bad_share * (self._records + records)
        if not most:
            self._pardoned = False
        return most and not self._pardoned and self._bad + bad >= self._policy.min_bad

    def add(self, records: int, bad: int, now: int) -> None:
        self._fade(now)
        self._records += records
        self._bad += bad

    def pardon(self) -> None:
        """An operator says that the records are what is wrong: write the letters, until the worst is past."""
        self._pardoned = True

    def _fade(self, now: int) -> None:
        factor: float = 0.5 ** (max(0, now - self._at) / self.HALF_LIFE)
        self._records *= factor
        self._bad *= factor
        self._at = max(self._at, now)
