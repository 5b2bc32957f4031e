"""Consumer groups: state, members, what they hold, how often they rebalance, and the likely cause of a lag."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from collectors.base import Context, Reading, Sample, Unmeasured
from collectors.kafka.cause import Partition, Verdict, likely_cause
from collectors.kafka.cluster import NOBODY
from collectors.kafka.forecast import rate
from collectors.kafka.members import describe
from collectors.kafka.state import Described, KafkaState, Lags, Member, kafka_state, wire_for
from collectors.kafka.status import Status
from tidewatch.telemetry.catalogue import collectors_kafka as m

_EVERY = 2
_LOOKS = 8
_STORM_SHARE = 0.5
_FEWEST_LOOKS = 4


@dataclass
class _Watched:
    """What is remembered of a group from look to look."""

    total: int = 0
    looks: deque[bool] = field(default_factory=lambda: deque(maxlen=_LOOKS))
    last: Described | None = None

    def see(self, group: Described) -> None:
        rebalances = self._since(group)
        self.total += rebalances
        if self.last is not None:
            self.looks.append(rebalances > 0 or group.state.endswith("Rebalance"))
        self.last = group

    def _since(self, group: Described) -> int:
        before = self.last
        if before is None:
            return 0
        if group.generation is not None and before.generation is not None and group.generation >= before.generation:
            return group.generation - before.generation
        held = {(member.member_id, member.partitions) for member in group.members}
        return int(held != {(member.member_id, member.partitions) for member in before.members})

    @property
    def storm(self) -> bool:
        return len(self.looks) >= _FEWEST_LOOKS and sum(self.looks) >= _STORM_SHARE * len(self.looks)


class KafkaGroups:
    """Asks for the groups that the lag collector found, less often than it asks for their offsets."""

    name = "kafka_groups"

    def __init__(self, context: Context) -> None:
        self.interval = context.settings.collect.interval_seconds * _EVERY
        self._clock = context.clock
        self._state = context.shared(kafka_state)
        self._wire = wire_for(context, "groups")
        self._watched: dict[str, _Watched] = {}

    def collect(self) -> Iterator[Reading]:
        lags, _ = self._state.reading()
        described, failed = describe(self._wire, lags.listed.values())
        now = self._clock.now()
        self._watched = {name: self._watched.get(name, _Watched()) for name in lags.listed}
        for name, group in described.items():
            self._watched[name].see(group)
        with self._state.lock:
            self._state.described = described
            self._state.storms = frozenset(name for name, watched in self._watched.items() if watched.storm)
        for name, why in failed.items():
            yield Unmeasured(f"group {name}", why, now)
        for listed in lags.listed.values():
            state = described[listed.name].state if listed.name in described else listed.state
            yield Sample(m.GROUP, (listed.name, listed.kind, state, str(listed.coordinator)), 1, now)
        for group in described.values():
            yield from self._group(group, lags)

    def _group(self, group: Described, lags: Lags) -> Iterator[Reading]:
        now = self._clock.now()
        yield Sample(m.MEMBERS, (group.name,), len(group.members), now)
        yield Sample(m.KE_MEMBERS, (group.name,), len(group.members), now)
        held = Counter(topic for member in group.members for topic, _ in member.partitions)
        for topic, count in held.items():
            yield Sample(m.ASSIGNED, (group.name, topic), count, now)
        if group.generation is not None:
            yield Sample(m.GENERATION, (group.name,), group.generation, now)
        watched = self._watched[group.name]
        yield Sample(m.REBALANCES, (group.name,), watched.total, now)
        yield Sample(m.STORM, (group.name,), int(watched.storm), now)
        if verdict := why(self._state, lags, group):
            yield Sample(m.CAUSE, (group.name, verdict.cause.value, verdict.detail), 1, now)


def why(state: KafkaState, lags: Lags, group: Described) -> Verdict | None:
    """The likely cause of the group's lag; None when no partition suffers."""
    owners = group.owners()
    keys = [key for key in lags.lags if key[0] == group.name]
    if not any((lags.statuses[key] >= Status.WARN).any() for key in keys):
        return None
    partitions = [p for _, topic in keys for p in _partitions(state, lags, group.name, topic, owners)]
    return likely_cause(partitions, members=len(group.members), storm=group.name in state.storms)


def _partitions(
    state: KafkaState, lags: Lags, group: str, topic: str, owners: dict[tuple[str, int], Member]
) -> Iterator[Partition]:
    """Those that are behind or move: one that is idle says nothing about its neighbours."""
    with state.lock:
        window = state.history.window(group, topic)
    if window is None:
        return
    consumed, produced = rate(window.times, window.commits), rate(window.times, window.ends)
    status, lag, commits = lags.statuses[group, topic], lags.lags[group, topic], lags.commits[group][topic]
    if consumed is None or produced is None:
        return
    for number in range(len(status)):
        if lag[number] <= 0 and not consumed[number] > 0:
            continue
        owner = owners.get((topic, number))
        led = state.partition(topic, number)
        yield Partition(
            topic=topic,
            number=number,
            commit=int(commits[number]),
            lag=int(lag[number]),
            stuck=status[number] in {Status.STALL, Status.STOP},
            growing=status[number] == Status.WARN,
            member=owner.name if owner is not None else None,
            leader=led.leader if led is not None else NOBODY,
            produced=float(produced[number]),
            consumed=float(consumed[number]),
        )


COLLECTOR = KafkaGroups
