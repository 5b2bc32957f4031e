"""What lies behind a commit: one look at the records, for when the oldest was written and which offsets hold none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from kafka.protocol.consumer import FetchRequest

from collectors.kafka.batches import Ahead, look_ahead
from collectors.kafka.cluster import NOBODY, Cluster
from collectors.kafka.wire import Ask, Failure, Wire, reason

# Enough for the first batches of a partition. A first batch that is bigger is asked for alone: then it comes whole.
_BYTES = 16 * 1024
_PARTITIONS_AT_ONCE = 200
_ALONE_AT_ONCE = 32


class Place(NamedTuple):
    topic: str
    partition: int
    offset: int


def look_up(wire: Wire, cluster: Cluster, places: Iterable[Place]) -> dict[Place, Ahead | str]:
    """What lies ahead of each place, or why that is not known."""
    found: dict[Place, Ahead | str] = {}
    by_leader: dict[int, list[Place]] = defaultdict(list)
    for place in places:
        topic = cluster.topics.get(place.topic)
        leader = (
            topic.partitions[place.partition].leader if topic and place.partition < len(topic.partitions) else NOBODY
        )
        if leader == NOBODY:
            found[place] = "no leader"
        else:
            by_leader[leader].append(place)
    together = [(node, chunk) for node, all_ in by_leader.items() for chunk in _chunks(all_, _PARTITIONS_AT_ONCE)]
    found |= _fetched(wire, together, _BYTES)
    empty = [(node, [p]) for node, all_ in by_leader.items() for p in all_ if _is_empty(found.get(p), p)]
    for start in range(0, len(empty), _ALONE_AT_ONCE):
        found |= _fetched(wire, empty[start : start + _ALONE_AT_ONCE], 1)
    return found


def _is_empty(answer: Ahead | str | None, place: Place) -> bool:
    return isinstance(answer, Ahead) and answer.reached == place.offset


def _fetched(wire: Wire, asked: Sequence[tuple[int, list[Place]]], most: int) -> dict[Place, Ahead | str]:
    answers = wire.ask([Ask(node, _fetch(places, most)) for node, places in asked])
    found: dict[Place, Ahead | str] = {}
    for (node, places), answer in zip(asked, answers, strict=True):
        if isinstance(answer, Failure):
            found |= dict.fromkeys(places, f"broker {node} {answer.why}")
        else:
            found |= dict(_read(answer, places))
    return found


def _fetch(places: Sequence[Place], most: int) -> Any:
    topic, partition = FetchRequest.FetchTopic, FetchRequest.FetchTopic.FetchPartition
    by_topic: dict[str, list[Any]] = defaultdict(list)
    for place in places:
        by_topic[place.topic].append(
            partition(partition=place.partition, fetch_offset=place.offset, partition_max_bytes=most)
        )
    topics = [topic(topic=name, partitions=partitions) for name, partitions in by_topic.items()]
    # Version 12 is the last that knows topics by name.
    return FetchRequest(
        max_wait_ms=0, min_bytes=0, max_bytes=most * len(places), isolation_level=0, topics=topics, max_version=12
    )


def _read(answer: Any, places: Sequence[Place]) -> Iterator[tuple[Place, Ahead | str]]:
    by_partition = {(place.topic, place.partition): place for place in places}
    for topic in answer.responses:
        for partition in topic.partitions:
            place = by_partition[topic.topic, partition.partition_index]
            if partition.error_code:
                yield place, reason(partition.error_code)
            else:
                yield place, look_ahead(bytes(partition.records or b""), place.offset)


def _chunks(places: Sequence[Place], size: int) -> Iterator[list[Place]]:
    """Two groups may stand at different places of one partition; one request can ask for one of them."""
    waiting = list(places)
    while waiting:
        chunk: dict[tuple[str, int], Place] = {}
        later = []
        for place in waiting:
            if len(chunk) < size and (place.topic, place.partition) not in chunk:
                chunk[place.topic, place.partition] = place
            else:
                later.append(place)
        yield list(chunk.values())
        waiting = later
