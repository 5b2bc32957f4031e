"""Which offsets a window of append time covers, and how far the loader has committed."""

from __future__ import annotations

from ingest.ledger.report import Stretch
from ingest.ledger.window import Window
from tidewatch.kafka.admin import EARLIEST, LATEST, Committed, KafkaAdmin, Partition, Topic


def stretches(admin: KafkaAdmin, topic: Topic, committed: dict[Partition, Committed], window: Window) -> list[Stretch]:
    """By partition. `committed` must have been read before: then what it passed over cannot be still to come."""
    partitions = [Partition(topic.name, number) for number in range(topic.partitions)]
    oldest = admin.offsets(partitions, EARLIEST)
    ends = admin.offsets(partitions, LATEST)
    firsts = admin.offsets(partitions, window.since) if window.since is not None else oldest
    stops = admin.offsets(partitions, window.until) if window.until is not None else ends
    found = []
    for where in partitions:
        first = max(firsts[where], oldest[where])
        position = committed.get(where)
        found.append(
            Stretch(
                partition=where.partition,
                oldest=oldest[where],
                end=ends[where],
                first=first,
                stop=max(first, min(stops[where], ends[where])),
                committed=position.offset if position is not None else None,
            )
        )
    return found


def loader_group(topic: str) -> str:
    """The consumer group that loads the topic."""
    return f"tidewatch.loader.{topic}"
