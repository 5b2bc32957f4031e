"""Consumer lag in seconds: how old the oldest record is that a group has not committed, and when it will be lost.

Only where there is a lag, and less often than the lag itself: each look costs a fetch of a few batches. The same look
finds the offsets that hold no record (transaction markers, aborted records), which are no lag.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import inf
from typing import NamedTuple

import numpy as np

from collectors.base import Bulk, Context, Reading, Sample, Unmeasured
from collectors.kafka.batches import Ahead
from collectors.kafka.cluster import NOBODY
from collectors.kafka.forecast import seconds_to_loss
from collectors.kafka.history import GroupTopic
from collectors.kafka.lookups import Place, look_up
from collectors.kafka.state import Lags, kafka_state, wire_for
from tidewatch.telemetry.catalogue import collectors_kafka as m
from tidewatch.telemetry.exposition import Block

_EVERY = 2
_LOOKS_A_CYCLE = 2000


class _Behind(NamedTuple):
    """A partition that a group is behind on. `place` is where to look: not before the first record still there."""

    group: str
    place: Place
    commit: int
    lost: int


class KafkaLagSeconds:
    """A record's time never changes, so that what was looked up is kept until the commit moves on."""

    name = "kafka_lag_seconds"

    def __init__(self, context: Context) -> None:
        self.interval = context.settings.collect.interval_seconds * _EVERY
        self._cluster_name = context.settings.kafka.cluster
        self._clock = context.clock
        self._state = context.shared(kafka_state)
        self._wire = wire_for(context, "lag-seconds")
        self._found: dict[Place, Ahead | str] = {}

    def collect(self) -> Iterator[Reading]:
        lags, cluster = self._state.reading()
        behind = {key: list(self._behind(lags, key)) for key in lags.lags}
        places = {each.place for all_ in behind.values() for each in all_}
        self._found = {place: a for place, a in self._found.items() if place in places and _is_final(a)}
        # The furthest behind first: those that are close have a good bound from the ends that were seen.
        missing = sorted(
            places - self._found.keys(), key=lambda p: lags.ends[p.topic][p.partition] - p.offset, reverse=True
        )
        self._found |= look_up(self._wire, cluster, missing[:_LOOKS_A_CYCLE])
        self._hide(behind)
        rows: list[tuple[str, ...]] = []
        ages: list[float] = []
        for key, all_ in behind.items():
            yield from self._publish(lags, key, all_, rows, ages)
        if rows:
            yield Bulk(Block(m.KE_LAG_SECONDS, rows, whole=False), ages, self._clock.now())

    def _behind(self, lags: Lags, key: GroupTopic) -> Iterator[_Behind]:
        group, topic = key
        starts = self._state.starts.get(topic)
        commits = lags.commits[group][topic]
        for number in np.flatnonzero(lags.lags[key] > 0).tolist():
            commit = int(commits[number])
            start = int(starts[number]) if starts is not None and number < len(starts) else -1
            yield _Behind(group, Place(topic, number, max(commit, start)), commit, max(0, start - commit))

    def _hide(self, behind: dict[GroupTopic, list[_Behind]]) -> None:
        with self._state.lock:
            for each in (each for all_ in behind.values() for each in all_):
                ahead = self._found.get(each.place)
                if isinstance(ahead, Ahead) and ahead.hidden:
                    self._state.history.hide(
                        each.group, each.place.topic, each.place.partition, each.commit, ahead.hidden
                    )

    def _publish(
        self, lags: Lags, key: GroupTopic, behind: list[_Behind], rows: list[tuple[str, ...]], ages: list[float]
    ) -> Iterator[Reading]:
        now = self._clock.now()
        unknown: dict[str, list[int]] = defaultdict(list)
        oldest = 0.0
        for each in behind:
            age = self._age(lags, each.place)
            if isinstance(age, str):
                unknown[age].append(each.place.partition)
            else:
                oldest = max(oldest, age)
                rows.append((self._cluster_name, each.group, each.place.topic, str(each.place.partition)))
                ages.append(round(age, 3))
        lost = sum(each.lost for each in behind)
        if key[1] in self._state.starts:
            yield Sample(m.LOST, key, lost, now)
        if unknown:
            why = next(iter(unknown))
            yield Unmeasured(f"time lag of group {key[0]} on topic {key[1]}", why, now)
            return
        yield Sample(m.LAG_SECONDS, key, round(oldest, 3), now)
        config = self._state.configs.get(key[1])
        if config is not None:
            left = 0.0 if lost else seconds_to_loss(config.retention, oldest) if oldest > 0 else inf
            yield Sample(m.LOSS, key, left, now)

    def _age(self, lags: Lags, place: Place) -> float | str:
        """Seconds by the leader's clock, or why they are not known."""
        ahead = self._found.get(place)
        if isinstance(ahead, Ahead) and ahead.oldest_ms is not None:
            led = self._state.partition(place.topic, place.partition)
            skew = self._state.skew_of(led.leader if led is not None else NOBODY)
            return max(0.0, self._clock.now().timestamp() + skew - ahead.oldest_ms / 1000)
        if isinstance(ahead, Ahead) and ahead.reached >= lags.ends[place.topic][place.partition]:
            return 0.0  # only markers lie ahead
        bound = self._bound(place)
        if bound is not None:
            return bound
        return ahead if isinstance(ahead, str) else "more partitions are behind than are looked up in one cycle"

    def _bound(self, place: Place) -> float | None:
        """At least as old as it is: the record came after the last time when the end was seen at or before it."""
        with self._state.lock:
            seen = self._state.history.ends(place.topic)
        if seen is None:
            return None
        times, ends = seen
        before = np.flatnonzero((ends[:, place.partition] >= 0) & (ends[:, place.partition] <= place.offset))
        return float(self._clock.monotonic() - times[before[-1]]) if len(before) else None


def _is_final(answer: Ahead | str) -> bool:
    return isinstance(answer, Ahead) and answer.oldest_ms is not None


COLLECTOR = KafkaLagSeconds
