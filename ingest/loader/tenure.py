"""What a lane does when partitions come and go, and when the log moves away under it. For the polling thread alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any

from ingest.loader import effects as e
from ingest.loader.collector import Collector
from ingest.loader.gauges import Gauges
from ingest.loader.holdings import Holdings
from ingest.loader.membership import Membership
from tidewatch.errors import KafkaUnavailable
from tidewatch.telemetry.logs import get_logger

REVOKE_SECONDS = 5.0

log = get_logger(__name__)


class Tenure:
    """Its methods are the group's callbacks, called from within the member's `consume`."""

    def __init__(
        self,
        topic: str,
        holdings: Holdings,
        collector: Collector,
        gauges: Gauges,
        commit: Callable[[e.Commit], e.CommitResult],
    ) -> None:
        self._holdings = holdings
        self._topic = topic
        self._collector = collector
        self._gauges = gauges
        self._commit = commit
        self.member: Membership | None = None
        self.in_flight: tuple[e.Insert, Future[Any]] | None = None
        self.expired: dict[int, int] = {}
        """Partition → offsets that retention removed since the last block."""

    def assigned(self, partitions: Sequence[int]) -> tuple[dict[int, int], list[int]]:
        found = self._committed(partitions)
        bounds = {p: self._joined.bounds(p) for p in partitions}
        lows = {p: low for p, (low, _) in bounds.items()}
        holdings = self._holdings
        holdings.assigned(found, lows)
        starts = {p: max(lows[p], holdings.held[p].next) for p in partitions}
        for p in holdings.readable.keys() & starts.keys():
            lost = starts[p] - holdings.held[p].next
            if lost:
                self.expired[p] = lost
                self._gauges.expired.inc(lost)
                log.error(
                    "loader.expired", topic=self._topic, partition=p, first=holdings.held[p].next, last=starts[p] - 1
                )
        unread = [p for p in partitions if p not in holdings.readable]
        self._gauges.partitions.set(len(holdings.held))
        log.info("loader.assigned", topic=self._topic, partitions=list(partitions), to_settle=unread)
        return starts, unread

    def revoked(self, partitions: Sequence[int]) -> None:
        """The insert in flight gets a little time to end; then what has landed is made final, for these only."""
        if self.in_flight is not None:
            insert, future = self.in_flight
            wait([future], REVOKE_SECONDS)
            if future.done() and isinstance(future.result(), e.Landed):
                self._holdings.landed(insert.block)
        commit = self._holdings.release(partitions)
        if commit is not None:
            self._commit(commit)
        self._gone(partitions, "loader.revoked")

    def lost(self, partitions: Sequence[int]) -> None:
        self._holdings.lose(partitions)
        self._gone(partitions, "loader.lost")

    def _gone(self, partitions: Sequence[int], event: str) -> None:
        self._collector.drop(partitions)
        for partition in partitions:
            self.expired.pop(partition, None)
            self._gauges.forget(partition)
        self._gauges.partitions.set(len(self._holdings.held))
        log.info(event, topic=self._topic, partitions=list(partitions))

    def _committed(self, partitions: Sequence[int]) -> dict[int, e.Committed]:
        why = ""
        for attempt in range(6):
            found = self._joined.committed(partitions)
            if not isinstance(found, e.Failed):
                return found
            why = found.message
            log.warning("loader.offsets_not_read", topic=self._topic, error=why, attempt=attempt)
        raise KafkaUnavailable(f"the committed offsets of {self._topic} cannot be read: {why}", fix="check the brokers")

    def overtaken(self, partition: int) -> str | None:
        """Retention removed what was to be read next: what is lost is counted and reported, and the rest is loaded.

        The answer, if any, says why there is no going on.
        """
        readable = self._holdings.readable
        if partition not in readable:
            return None
        low, high = self._joined.bounds(partition)
        at = self._collector.lasts.get(partition, readable[partition] - 1) + 1
        if at > high:
            return f"the log of {self._topic}[{partition}] ends at {high}, before the position {at}: it was truncated"
        if at < low:
            self.expired[partition] = self.expired.get(partition, 0) + low - at
            self._gauges.expired.inc(low - at)
            log.error("loader.expired", topic=self._topic, partition=partition, first=at, last=low - 1)
        self._joined.read_from({partition: max(low, at)})
        return None

    def report_lag(self) -> None:
        """From what the consumer has heard with its fetches; asks nobody."""
        lasts = self._collector.lasts
        for partition, following in self._holdings.readable.items():
            _, end = self._joined.bounds(partition, cached=True)
            if end >= 0:
                at = lasts.get(partition, following - 1) + 1
                self._gauges.lag(partition, max(0, end - at))

    @property
    def _joined(self) -> Membership:
        if self.member is None:
            raise AssertionError("the lane has not joined its group yet")
        return self.member
