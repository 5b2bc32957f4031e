"""Event ids that stand at two offsets, declared replays excepted.

A replay is declared by the header `tw-replay` of its record, so the records themselves are read: only of the ids that
stand twice, which are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from ingest.ledger.report import PipelineReport, Stretch
from ingest.ledger.spans import Span
from ingest.ledger.tally import Reading, Subject
from ingest.ledger.warehouse import LISTED, Repeated
from ingest.ledger.window import Window
from tidewatch.kafka.headers import headers_of
from tidewatch.record import REPLAY

# How far before a window the other offset of an event id is looked for.
LOOK_BACK = timedelta(days=1)
# Reading on is cheaper than seeking when the next record wanted is this near.
_NEAR = 1000

Place = tuple[int, int]


def find_repeated(
    subject: Subject, stretches: Sequence[Stretch], window: Window, sources: Reading, report: PipelineReport
) -> None:
    """Adds a finding for each event id that was accepted twice without being declared a replay."""
    since = window.since - LOOK_BACK if window.since is not None else None
    rows = sum(stretch.stop for stretch in stretches)
    found = sources.warehouse.repeated_ids(subject.table, subject.topic_id, stretches, since=since, rows=rows)
    if len(found) > LISTED:
        report.notes.append(f"more than {LISTED:,} event ids stand twice; these are some of them")
    oldest = {stretch.partition: stretch.oldest for stretch in stretches}
    places = {place for repeated in found for place in repeated.places}
    readable = {place for place in places if place[1] >= oldest.get(place[0], 0)}
    replays = _replays(subject.topic, readable, sources)
    for repeated in found:
        _judge(repeated, replays, readable, report)


def _judge(repeated: Repeated, replays: set[Place], readable: set[Place], report: PipelineReport) -> None:
    own = [place for place in repeated.places if place not in replays]
    if len(own) < 2:
        return
    listed = ", ".join(f"{partition}:{offset}" for partition, offset in repeated.places)
    if any(place not in readable for place in own):
        report.unprovable(
            f"event id {repeated.event_id} stands at {listed}, and whether one of them is a declared replay"
            " cannot be read any more",
            *own[0],
        )
        return
    for partition, offset in own[1:]:
        detail = f"event id {repeated.event_id} of project {repeated.project or '–'} also stands at {listed}"
        report.find("duplicate_event_id", Span(partition, offset, offset, 1, 0), detail)


def _replays(topic: str, places: Iterable[Place], sources: Reading) -> set[Place]:
    wanted = sorted(places)
    found: set[Place] = set()
    run: list[Place] = []
    for place in wanted:
        if run and (place[0] != run[-1][0] or place[1] - run[-1][1] > _NEAR):
            found |= _replays_in(topic, run, sources)
            run = []
        run.append(place)
    return found | (_replays_in(topic, run, sources) if run else set())


def _replays_in(topic: str, run: Sequence[Place], sources: Reading) -> set[Place]:
    partition, first, last = run[0][0], run[0][1], run[-1][1]
    wanted = {offset for _, offset in run}
    return {
        (partition, offset)
        for message in sources.reader.read(topic, partition, first, last + 1)
        if (offset := message.offset() or 0) in wanted and any(name == REPLAY for name, _ in headers_of(message) or [])
    }
