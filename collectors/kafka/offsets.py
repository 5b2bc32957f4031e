"""One reading of all groups' commits and all partitions' ends, in the order that cannot invent a lag.

Commits are read before ends: a lag is then overstated by what was produced in between, never negative, never falsely
zero. What one broker, group or partition does not tell is left UNKNOWN with a reason, and the rest is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from kafka.protocol.admin import ListGroupsRequest
from kafka.protocol.consumer import ListOffsetsRequest, OffsetFetchRequest, OffsetSpec
from numpy.typing import NDArray

from collectors.kafka.cluster import NOBODY, Cluster
from collectors.kafka.wire import SILENT, Ask, Failure, Wire, reason

Offsets = NDArray[np.int64]
NEVER = -1
"""The group never committed this partition."""
UNKNOWN = -2
"""Not measured this time."""

# One response of 100,000 offsets would keep the network thread busy while the broker idles.
_GROUPS_AT_ONCE = 20


class Listed(NamedTuple):
    """A group as its coordinator lists it; `kind` is classic, consumer (KIP-848), share or streams."""

    name: str
    coordinator: int
    state: str
    protocol: str
    kind: str


@dataclass
class Groups:
    listed: dict[str, Listed] = field(default_factory=dict)
    silent: dict[int, str] = field(default_factory=dict)
    """Brokers that did not tell their groups, and why."""
    hung: set[int] = field(default_factory=set)
    """Those among them that told nothing at all."""


@dataclass
class Commits:
    offsets: dict[str, dict[str, Offsets]] = field(default_factory=dict)
    """Group → topic → offset by partition, or NEVER."""
    failed: dict[str, str] = field(default_factory=dict)
    """Groups whose commits are not known, and why."""
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    """Topics of a group with partitions that are not known."""


@dataclass
class Ends:
    offsets: dict[str, Offsets] = field(default_factory=dict)
    """Topic → offset by partition, or UNKNOWN."""
    failed: dict[str, str] = field(default_factory=dict)
    """Topics with partitions that are UNKNOWN, and why."""
    stale: bool = False
    """The metadata that led to the leaders is out of date."""


def list_groups(wire: Wire, brokers: Iterable[int]) -> Groups:
    nodes = sorted(brokers)
    found = Groups()
    for node, answer in zip(nodes, wire.ask([Ask(node, ListGroupsRequest()) for node in nodes]), strict=True):
        if isinstance(answer, Failure):
            found.silent[node] = answer.why
            found.hung |= {node} if answer.silent else set()
        elif answer.error_code:
            found.silent[node] = reason(answer.error_code)
        else:
            for group in answer.groups:
                kind = (group.group_type or "classic").lower()
                listed = Listed(group.group_id, node, group.group_state or "", group.protocol_type or "", kind)
                found.listed[group.group_id] = listed
    return found


def fetch_commits(wire: Wire, groups: Iterable[Listed], partitions: Mapping[str, int]) -> Commits:
    """`partitions` is how many each topic has; commits of topics that are not among them are kept too."""
    by_coordinator: dict[int, list[str]] = defaultdict(list)
    for group in groups:
        by_coordinator[group.coordinator].append(group.name)
    asks, asked = [], []
    for node, names in by_coordinator.items():
        for start in range(0, len(names), _GROUPS_AT_ONCE):
            chunk = names[start : start + _GROUPS_AT_ONCE]
            wanted = [OffsetFetchRequest.OffsetFetchRequestGroup(group_id=name, topics=None) for name in chunk]
            asks.append(Ask(node, OffsetFetchRequest(groups=wanted, min_version=8, max_version=8)))
            asked.append(chunk)
    commits = Commits()
    for chunk, answer in zip(asked, wire.ask(asks), strict=True):
        if isinstance(answer, Failure):
            commits.failed.update(dict.fromkeys(chunk, f"its coordinator {answer.why}"))
            continue
        for group in answer.groups:
            if group.error_code:
                commits.failed[group.group_id] = reason(group.error_code)
            else:
                commits.offsets[group.group_id] = dict(_committed(group, partitions, commits.refused))
    return commits


def _committed(
    group: Any, sizes: Mapping[str, int], refused: dict[tuple[str, str], str]
) -> Iterator[tuple[str, Offsets]]:
    for topic in group.topics:
        numbers = [p.partition_index for p in topic.partitions]
        offsets = np.full(max(sizes.get(topic.name, 0), max(numbers, default=-1) + 1), NEVER, np.int64)
        offsets[numbers] = [p.committed_offset for p in topic.partitions]
        bad = {p.partition_index: p.error_code for p in topic.partitions if p.error_code}
        if bad:
            offsets[list(bad)] = UNKNOWN
            refused[group.group_id, topic.name] = f"{_some(bad)}: {reason(next(iter(bad.values())))}"
        yield topic.name, offsets


def fetch_ends(wire: Wire, cluster: Cluster, spec: int = OffsetSpec.LATEST, hung: Container[int] = frozenset()) -> Ends:
    """The offset that `spec` names (the end, unless told otherwise) of every partition, one request for each leader.

    Brokers in `hung` did not answer just now, and are not waited for a second time.
    """
    ends = Ends({t.name: np.full(len(t.partitions), UNKNOWN, np.int64) for t in cluster.topics.values()})
    missing: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for topic, number, state in cluster.each():
        if state.leader == NOBODY:
            missing[topic.name]["no leader"].append(number)
    requests = _requests(cluster)
    asked = [node for node in requests if node not in hung]
    answers = dict(zip(asked, wire.ask([_list_offsets(node, requests[node], spec) for node in asked]), strict=True))
    for node, by_topic in requests.items():
        answer = answers.get(node, Failure(SILENT, silent=True))
        if isinstance(answer, Failure):
            ends.stale = True
            for name, numbers in by_topic.items():
                missing[name][f"their leader, broker {node}, {answer.why}"] += numbers
            continue
        for topic in answer.topics:
            _take(ends, topic, missing[topic.name])
    ends.failed = {
        name: "; ".join(f"{_some(numbers)}: {why}" for why, numbers in whys.items())
        for name, whys in missing.items()
        if whys
    }
    return ends


def _take(ends: Ends, topic: Any, missing: dict[str, list[int]]) -> None:
    good = [p for p in topic.partitions if not p.error_code]
    ends.offsets[topic.name][[p.partition_index for p in good]] = [p.offset for p in good]
    for p in topic.partitions:
        if p.error_code:
            ends.stale = True
            missing[reason(p.error_code)].append(p.partition_index)


def _requests(cluster: Cluster) -> dict[int, dict[str, list[int]]]:
    """Leader → topic → partitions."""
    by_leader: dict[int, dict[str, list[int]]] = defaultdict(dict)
    for topic, number, state in cluster.each():
        if state.leader != NOBODY:
            by_leader[state.leader].setdefault(topic.name, []).append(number)
    return by_leader


def _list_offsets(node: int, by_topic: Mapping[str, list[int]], spec: int) -> Ask:
    topic, partition = ListOffsetsRequest.ListOffsetsTopic, ListOffsetsRequest.ListOffsetsTopic.ListOffsetsPartition
    topics = [
        topic(name=name, partitions=[partition(partition_index=number, timestamp=spec) for number in numbers])
        for name, numbers in by_topic.items()
    ]
    return Ask(node, ListOffsetsRequest(isolation_level=0, topics=topics, min_version=2))


def _some(partitions: Iterable[int]) -> str:
    numbers = sorted(partitions)
    shown = ", ".join(map(str, numbers[:5]))
    return f"partitions {shown} and {len(numbers) - 5} more" if len(numbers) > 5 else f"partitions {shown}"
