"""Consumer lag of every group, in messages, with each group's status, and where it is going."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from collectors.base import Bulk, Context, Reading, Sample
from collectors.kafka.forecast import drain, rate
from collectors.kafka.history import GroupTopic
from collectors.kafka.offsets import NEVER, UNKNOWN, Offsets
from collectors.kafka.reader import LagReader
from collectors.kafka.state import Lags, kafka_state, wire_for
from collectors.kafka.status import Status, stuck_seconds
from tidewatch.telemetry.catalogue import collectors_kafka as m
from tidewatch.telemetry.exposition import Block
from tidewatch.telemetry.metrics import Metric

_SHOWN_STUCK = 20


class KafkaLag:
    """The fast cycle: what it publishes costs two requests for each broker and a few array operations."""

    name = "kafka_lag"

    def __init__(self, context: Context) -> None:
        self.interval = context.settings.collect.interval_seconds
        self._state = context.shared(kafka_state)
        self._reader = LagReader(wire_for(context, "lag"), self._state, context.clock, context.settings.collect)
        self._blocks: dict[tuple[Metric, tuple[str, ...]], tuple[bytes, Block]] = {}

    def collect(self) -> Iterator[Reading]:
        lags = self._reader.read()
        yield from self._reader.unmeasured
        self._forget(lags)
        with self._state.lock:
            for (group, topic), lag in lags.lags.items():
                yield from self._group_on_topic(lags, (group, topic), lag)
            for topic in lags.ends:
                yield from self._topic(lags, topic)
        yield from _group_statuses(lags)

    def _group_on_topic(self, lags: Lags, key: GroupTopic, lag: Offsets) -> Iterator[Reading]:
        status, commits = lags.statuses[key], lags.commits[key[0]][key[1]]
        counted = Counter(status.tolist())
        for value in {int(Status.OK), *counted}:
            yield Sample(m.PARTITIONS, (*key, Status(value).word), counted[value], lags.at)
        yield from self._bulk(m.KE_LAG, key, lag, lag >= 0, lags)
        yield from self._bulk(m.KE_COMMIT, key, commits, commits >= 0, lags)
        committed = commits != NEVER
        # A sum that leaves out what is not known would be a number too small, and look like a good one.
        if committed.any() and not (lag[committed] == UNKNOWN).any():
            total = int(lag[committed].sum())
            yield Sample(m.LAG, key, total, lags.at)
            yield Sample(m.KE_LAG_SUM, key, total, lags.at)
            yield from self._forecast(lags, key, total)
        yield from self._commit_ages(lags, key, commits)

    def _forecast(self, lags: Lags, key: GroupTopic, lag: int) -> Iterator[Reading]:
        window = self._state.history.window(*key)
        consumed = rate(window.times, window.commits) if window is not None else None
        produced = rate(window.times, window.ends) if window is not None else None
        if consumed is None or produced is None:
            return
        mine = ~np.isnan(consumed)
        per_second = float(consumed[mine].sum())
        members = self._state.members(key[0])
        outlook = drain(lag, per_second, float(np.nansum(produced[mine])), members or 1)
        yield Sample(m.CONSUMED, key, per_second, lags.at)
        yield Sample(m.DRAIN, key, outlook.seconds, lags.at)
        if outlook.members_needed is not None and members:
            yield Sample(m.MEMBERS_NEEDED, key, outlook.members_needed, lags.at)

    def _commit_ages(self, lags: Lags, key: GroupTopic, commits: Offsets) -> Iterator[Reading]:
        window = self._state.history.window(*key)
        measured = commits >= 0
        if window is None or not measured.any():
            return
        yield Sample(m.LAST_COMMIT_AGE, key, lags.monotonic - float(window.committed_at[measured].max()), lags.at)
        status, waiting = lags.statuses[key], stuck_seconds(window)
        stuck = np.flatnonzero((status == Status.STALL) | (status == Status.STOP))
        for number in stuck[np.argsort(-waiting[stuck])][:_SHOWN_STUCK].tolist():
            labels = (*key, str(number), str(commits[number]))
            yield Sample(m.STUCK, labels, round(float(waiting[number]), 3), lags.at)

    def _topic(self, lags: Lags, topic: str) -> Iterator[Reading]:
        ends = lags.ends[topic]
        yield from self._bulk(m.KE_CURRENT, (topic,), ends, ends >= 0, lags)
        seen = self._state.history.ends(topic)
        rates = rate(*seen) if seen is not None else None
        if rates is None or np.isnan(rates).any() or not len(rates):
            return
        total = float(rates.sum())
        yield Sample(m.PRODUCED, (topic,), total, lags.at)
        if total > 0:
            yield Sample(m.HOTTEST, (topic,), float(rates.max()) / total, lags.at)

    def _bulk(
        self, metric: Metric, labels: tuple[str, ...], values: Offsets, known: np.ndarray, lags: Lags
    ) -> Iterator[Bulk]:
        """Rendered labels are kept for as long as the same partitions are known."""
        which = known.tobytes()
        kept = self._blocks.get((metric, labels))
        if kept is None or kept[0] != which:
            rows = [(*labels, str(number)) for number in np.flatnonzero(known).tolist()]
            kept = self._blocks[metric, labels] = which, Block(metric, rows)
        if kept[1].size:
            yield Bulk(kept[1], values[known].tolist(), lags.at)

    def _forget(self, lags: Lags) -> None:
        present = {*lags.lags, *((topic,) for topic in lags.ends)}
        self._blocks = {key: block for key, block in self._blocks.items() if key[1] in present}


def _group_statuses(lags: Lags) -> Iterator[Sample]:
    worst: dict[str, int] = {}
    for (group, _), status in lags.statuses.items():
        if len(status):
            worst[group] = max(worst.get(group, 0), int(status.max()))
    for group, value in worst.items():
        yield Sample(m.STATUS, (group, Status(value).word), value, lags.at)


COLLECTOR = KafkaLag
