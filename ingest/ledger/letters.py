"""The dead-letter topic held against the `dead_letters` table, and what it says of records of the source topic.

A letter that Kafka has and the warehouse lacks is in flight, or was lost on the way. Either way its record was
dead-lettered, so the source's tally must know of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from confluent_kafka import Message

from ingest.ledger.report import Stretch
from ingest.ledger.tally import Reading, Subject, Tally, Tallying
from ingest.ledger.warehouse import Place
from tidewatch.kafka.headers import headers_of
from tidewatch.record import Letter, Origin


@dataclass(frozen=True, slots=True)
class MissingLetter:
    """`origin` is None for a letter of the gateway, or one of foreign making."""

    place: Place
    stage: str
    error: str
    origin: Origin | None


@dataclass(slots=True)
class LetterBook:
    tally: Tally
    lost: list[MissingLetter] = field(default_factory=list)
    pending: list[MissingLetter] = field(default_factory=list)

    def known(self, topic_id: str) -> dict[int, dict[int, set[Place]]]:
        """Letters of that topic's records that the warehouse does not hold."""
        found: dict[int, dict[int, set[Place]]] = {}
        for letter in (*self.lost, *self.pending):
            if letter.origin is not None and letter.origin.topic_id == topic_id:
                offsets = found.setdefault(letter.origin.partition, {})
                offsets.setdefault(letter.origin.offset, set()).add(letter.place)
        return found

    @property
    def of_gateway(self) -> int:
        """Letters without an origin that the warehouse does not hold."""
        return sum(letter.stage == "gateway" for letter in (*self.lost, *self.pending))


def read_letters(subject: Subject, stretches: Sequence[Stretch], sources: Reading) -> LetterBook:
    """`subject` is the dead-letter topic and its table."""
    committed = {stretch.partition: stretch.committed for stretch in stretches}
    missing: list[MissingLetter] = []

    def note(message: Message) -> None:
        missing.append(_letter(message))

    book = LetterBook(Tallying(subject, sources, on_missing=note).run(stretches))
    for letter in missing:
        position = committed[letter.place[0]]
        lost = position is not None and letter.place[1] < position
        (book.lost if lost else book.pending).append(letter)
    return book


def _letter(message: Message) -> MissingLetter:
    texts = {name: value.decode(errors="replace") for name, value in headers_of(message) or []}
    place = (message.partition() or 0, message.offset() or 0)
    stage, error = texts.get(Letter.STAGE, ""), texts.get(Letter.ERROR, "")
    return MissingLetter(place, stage, error, _origin(texts))


def _origin(texts: dict[str, str]) -> Origin | None:
    partition, offset = texts.get(Letter.PARTITION, ""), texts.get(Letter.OFFSET, "")
    if not (partition.isdecimal() and offset.isdecimal()):
        return None
    return Origin(texts.get(Letter.TOPIC, ""), texts.get(Letter.TOPIC_ID, ""), int(partition), int(offset))
