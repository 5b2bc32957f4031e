"""Which offsets a window of append time covers, and how far the loader has come.

The loader's position is the offset that its group has committed. Kafka forgets such offsets, and people set them back;
then what is lost would look like what is still to come. So the range records vouch for the position too: the loader
writes one only when the offset behind it was committed. And rows may stand beyond the committed offset only as far as
the intent goes that was committed with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingest.ledger.report import PipelineReport, Stretch
from ingest.ledger.spans import Span
from ingest.ledger.tally import Subject
from ingest.ledger.warehouse import Ahead, Warehouse
from ingest.ledger.window import Window
from ingest.loader.intents import NewerIntent, Note, decode
from tidewatch.kafka.admin import EARLIEST, LATEST, Committed, KafkaAdmin, Partition, Topic


def loader_group(topic: str) -> str:
    """The consumer group that loads the topic."""
    return f"tidewatch.loader.{topic}"


@dataclass(frozen=True, slots=True)
class Positions:
    """Of one topic, by partition. `reached` must be read before `committed`: then it cannot be ahead by itself."""

    committed: Mapping[int, int]
    reached: Mapping[int, int]
    """One more than the last offset of any range record."""

    def of(self, partition: int) -> int | None:
        known = [found[partition] for found in (self.committed, self.reached) if partition in found]
        return max(known, default=None)


def committed_of(admin: KafkaAdmin, topic: Topic) -> dict[int, Committed]:
    """By partition; an offset that belongs to an earlier topic of this name is none."""
    found = admin.committed(loader_group(topic.name))
    return {
        where.partition: value
        for where, value in found.items()
        if where.topic == topic.name and (_note(value).topic_id or topic.topic_id) == topic.topic_id
    }


def read_positions(admin: KafkaAdmin, topic: Topic, reached: Mapping[int, int]) -> Positions:
    committed = {partition: value.offset for partition, value in committed_of(admin, topic).items()}
    return Positions(committed, reached)


def stretches(admin: KafkaAdmin, topic: Topic, positions: Positions, window: Window) -> list[Stretch]:
    """By partition. `positions` must have been read before: then what they passed over cannot be still to come."""
    partitions = [Partition(topic.name, number) for number in range(topic.partitions)]
    oldest = admin.offsets(partitions, EARLIEST)
    ends = admin.offsets(partitions, LATEST)
    firsts = admin.offsets(partitions, window.since) if window.since is not None else oldest
    stops = admin.offsets(partitions, window.until) if window.until is not None else ends
    found = []
    for where in partitions:
        first = max(firsts[where], oldest[where])
        found.append(
            Stretch(
                partition=where.partition,
                oldest=oldest[where],
                end=ends[where],
                first=first,
                stop=max(first, min(stops[where], ends[where])),
                committed=positions.of(where.partition),
            )
        )
    return found


class Standing:
    """Whether the positions of one topic can be believed; adds to `report` what speaks against them."""

    def __init__(self, admin: KafkaAdmin, warehouse: Warehouse, report: PipelineReport) -> None:
        self._admin = admin
        self._warehouse = warehouse
        self._report = report

    def judge(self, topic: Topic, subject: Subject, positions: Positions, covered: Sequence[Stretch]) -> None:
        ahead = self._warehouse.ahead(subject.table, subject.topic_id, covered, letters=subject.has_letters)
        later = committed_of(self._admin, topic) if ahead else {}
        for stretch in covered:
            partition = stretch.partition
            beyond = ahead.get(partition)
            if partition not in positions.committed:
                self._forgotten(topic, stretch, beyond)
            elif positions.committed[partition] < positions.reached.get(partition, 0):
                self._set_back(topic, partition, positions.committed[partition], positions.reached[partition])
            elif beyond is not None and partition in later:
                self._outrun(topic, partition, later[partition], beyond)

    def _forgotten(self, topic: Topic, stretch: Stretch, beyond: Ahead | None) -> None:
        partition, reached = stretch.partition, stretch.committed
        if beyond is not None:
            since = f" from offset {reached} on, where the range records end" if reached is not None else ""
            why = (
                f"{topic.name}: no committed offset for partition {partition} though {beyond.offsets:,} rows are loaded"
            )
            self._report.unprovable(why + since, partition, reached or stretch.oldest, stretch.end - 1)
        elif reached is not None:
            self._report.notes.append(
                f"{topic.name}: no committed offset for partition {partition}; range records show that the loader had"
                f" come to offset {reached}"
            )

    def _set_back(self, topic: Topic, partition: int, committed: int, reached: int) -> None:
        detail = f"the committed offset is {committed}, and the loader had committed {reached} before: it was set back"
        self._moved(topic, Span(partition, committed, reached - 1, reached - committed, 0), detail)

    def _outrun(self, topic: Topic, partition: int, committed: Committed, beyond: Ahead) -> None:
        """The offset is read again after the rows: by now it, or its intent, covers all that were there."""
        intent = _note(committed).intent
        lasts = [r.last for r in intent.ranges if r.partition == partition] if intent is not None else []
        covered = max([committed.offset, *(last + 1 for last in lasts)])
        if beyond.last >= covered:
            detail = f"the committed offset is {committed.offset}, and rows stand up to {beyond.last}: it was set back"
            self._moved(topic, Span(partition, covered, beyond.last, beyond.last + 1 - covered, 0), detail)

    def _moved(self, topic: Topic, span: Span, detail: str) -> None:
        self._report.find("position_moved", span, detail, topic.name)


def _note(committed: Committed) -> Note:
    """What a newer loader noted is taken for no note: its intents are not known here."""
    try:
        return decode(committed.metadata)
    except NewerIntent:
        return Note()
