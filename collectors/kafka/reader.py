"""Reads all groups' lags once, judges them, and remembers what was there before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from collectors.base import Unmeasured
from collectors.kafka.cluster import Cluster, read_cluster
from collectors.kafka.history import matched
from collectors.kafka.offsets import (
    UNKNOWN,
    Commits,
    Ends,
    Groups,
    Listed,
    Offsets,
    fetch_commits,
    fetch_ends,
    list_groups,
)
from collectors.kafka.state import KafkaState, Lags, Statuses
from collectors.kafka.status import Rules, judge, lag_of
from collectors.kafka.wire import Wire
from tidewatch.clock import Clock
from tidewatch.settings import Collect

# Share groups keep no committed offsets.
_WITHOUT_COMMITS = frozenset({"share"})
_GONE_SHOWN_FOR = timedelta(minutes=5)
# Metadata is read anew at the first sign that it is out of date, and after so many cycles anyway.
_METADATA_CYCLES = 4


class LagReader:
    """`read` once a cycle, from one thread."""

    def __init__(self, wire: Wire, state: KafkaState, clock: Clock, settings: Collect) -> None:
        self.unmeasured: list[Unmeasured] = []
        """What the last reading could not tell."""
        self._wire = wire
        self._state = state
        self._clock = clock
        self._metadata_age = settings.interval_seconds * _METADATA_CYCLES
        self._ignored = re.compile(settings.ignore_groups)
        self._rules = Rules()
        self._stale = True
        self._gone: dict[str, tuple[str, datetime]] = {}

    def read(self) -> Lags:
        """Raises KafkaUnavailable or KafkaError when no broker tells what there is."""
        before = self._state.lags
        cluster = self._cluster()
        groups = list_groups(self._wire, cluster.brokers)
        known = {name: group for name, group in groups.listed.items() if not self._ignored.fullmatch(name)}
        asked = [group for group in known.values() if group.kind not in _WITHOUT_COMMITS]
        commits = fetch_commits(self._wire, asked, {t.name: len(t.partitions) for t in cluster.topics.values()})
        ends = fetch_ends(self._wire, cluster, hung=groups.hung)
        self._stale = ends.stale or any(t not in cluster.topics for topics in commits.offsets.values() for t in topics)

        out_of_sight = _out_of_sight(before.listed if before else {}, known, groups, cluster)
        lags = self._remember({**out_of_sight, **known}, commits, ends, cluster, {*commits.failed, *out_of_sight})
        self._unmeasured(lags, _gone(before, lags, cluster), _blind_spots(groups, commits, ends, cluster, out_of_sight))
        return lags

    def _cluster(self) -> Cluster:
        cluster = self._state.cluster
        now = self._clock.monotonic()
        if cluster is None or self._stale or now - cluster.at > self._metadata_age:
            cluster = self._state.cluster = read_cluster(self._wire, now)
        return cluster

    def _remember(
        self, listed: dict[str, Listed], commits: Commits, ends: Ends, cluster: Cluster, unread: set[str]
    ) -> Lags:
        now = self._clock.monotonic()
        with self._state.lock:
            history = self._state.history
            ids = {topic.name: topic.topic_id for topic in cluster.topics.values()}
            history.see(now, ends.offsets, commits.offsets, ids, unread)
            lags, statuses = {}, {}
            for group, topics in commits.offsets.items():
                for topic in topics:
                    if (judged := self._judged(group, topic)) is not None:
                        lags[group, topic], statuses[group, topic] = judged
            reading = Lags(self._clock.now(), now, listed, commits.offsets, ends.offsets, lags, statuses)
            self._state.lags = reading
        self._state.read.set()
        return reading

    def _judged(self, group: str, topic: str) -> tuple[Offsets, Statuses] | None:
        window = self._state.history.window(group, topic)
        if window is None:
            return None
        lag = lag_of(window.commits[-1], window.ends[-1], window.hidden)
        members = self._state.members(group)
        return lag, judge(window, members=None if members is None else members > 0, rules=self._rules)

    def _unmeasured(self, lags: Lags, gone: Mapping[str, str], spots: Iterator[tuple[str, str]]) -> None:
        """What is gone is shown for some minutes: its series have ended, and somebody may ask why."""
        present = {f"group {name}" for name in lags.listed} | {f"topic {name}" for name in lags.ends}
        self._gone |= {source: (why, lags.at + _GONE_SHOWN_FOR) for source, why in gone.items()}
        self._gone = {s: (why, end) for s, (why, end) in self._gone.items() if end > lags.at and s not in present}
        self.unmeasured = [Unmeasured(source, why, lags.at) for source, why in spots]
        self.unmeasured += [Unmeasured(source, why, lags.at) for source, (why, _) in self._gone.items()]


def _gone(before: Lags | None, lags: Lags, cluster: Cluster) -> dict[str, str]:
    """What the reading before had and this one has not, though everybody who would know was asked."""
    if before is None:
        return {}
    topics = [name for name in before.ends if name not in cluster.topics and name not in cluster.refused]
    groups = [name for name in before.commits if name not in lags.listed]
    return {f"topic {name}": "was deleted" for name in topics} | {
        f"group {name}": "was deleted, or its offsets expired" for name in groups
    }


def _out_of_sight(
    before: Mapping[str, Listed], now: Mapping[str, Listed], groups: Groups, cluster: Cluster
) -> dict[str, Listed]:
    """Groups that nobody lists while their coordinator is silent, or is no more: not gone, only not seen."""
    answered = cluster.brokers.keys() - groups.silent.keys()
    return {name: group for name, group in before.items() if name not in now and group.coordinator not in answered}


def _blind_spots(
    groups: Groups, commits: Commits, ends: Ends, cluster: Cluster, out_of_sight: Mapping[str, Listed]
) -> Iterator[tuple[str, str]]:
    for node, why in groups.silent.items():
        yield f"broker {node}", why
    for name, group in out_of_sight.items():
        yield f"group {name}", f"its coordinator, broker {group.coordinator}, does not answer"
    for name, why in commits.failed.items():
        yield f"group {name}", why
    for (name, topic), why in commits.refused.items():
        yield f"group {name} on topic {topic}", why
    for topic, code in cluster.refused.items():
        yield f"topic {topic}", f"the cluster does not describe it (Kafka error {code})"
    for topic, why in ends.failed.items():
        yield f"topic {topic}", why
    for name, topics in commits.offsets.items():
        for topic in topics:
            if topic not in ends.offsets:
                yield f"group {name} on topic {topic}", "the topic does not exist"
            elif _beyond(topics[topic], ends.offsets[topic]):
                yield f"group {name} on topic {topic}", "a commit lies beyond the end: recreated topic or truncated log"


def _beyond(commits: Offsets, ends: Offsets) -> bool:
    ends = matched(ends, len(commits))
    return bool(((commits > ends) & (ends != UNKNOWN)).any())
