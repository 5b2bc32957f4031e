"""Checked events → Kafka, and what became of each."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from ingest.gateway.answers import Fate
from ingest.gateway.delivery import Delivery
from ingest.gateway.ids import EventIds
from ingest.gateway.problems import Rejection
from ingest.gateway.producer import EventProducer, Headers
from ingest.gateway.validation import Checked
from tidewatch import __version__
from tidewatch.record import ENVELOPE, TRACEPARENT, Failure, envelope_suffix, letter_headers
from tidewatch.spec import Spec
from tidewatch.telemetry.traces import TraceContext

# Without these an event cannot even be looked into, and stays with the client.
_NEVER_LETTERS = frozenset(("invalid_json", "not_an_object", "too_large", "too_deep"))


class Stamp:
    """What the events of one request have in common."""

    __slots__ = ("received_ns", "suffix", "traced")

    def __init__(self, spec: Spec, project: str, context: TraceContext) -> None:
        self.received_ns = time.time_ns()
        text = str(context)
        self.suffix = envelope_suffix(self.received_ns // 1000, spec.schema_.version, project, text)
        # Other tools know the standard header; it costs, so only a trace that is kept carries it.
        self.traced: Headers = [(TRACEPARENT, text.encode())] if context.sampled else []

    def headers(self, event_ids: list[bytes]) -> list[Headers]:
        """Raises ValueError for ids that would end before their end: what follows would be read as ours."""
        suffix = self.suffix
        if b";" in b"".join(event_ids):
            raise ValueError("an event id holds the separator of the envelope")
        if not self.traced:
            return [[(ENVELOPE, event_id + suffix)] for event_id in event_ids]
        return [[(ENVELOPE, event_id + suffix), *self.traced] for event_id in event_ids]


def event_ids(checked: Checked, ids: EventIds) -> list[bytes]:
    """The client's own where it gave one, else new ones."""
    if checked.ids is None:
        return [ids.one()] if checked.single else ids.batch(len(checked.values))
    made = ids.batch(len(checked.values))
    return [own.encode() if own is not None else new for own, new in zip(checked.ids, made, strict=True)]


def goes_to_letters(spec: Spec, rejection: Rejection) -> bool:
    return spec.source.on_invalid == "dead_letter" and rejection.reason not in _NEVER_LETTERS


async def send_all(spec: Spec, producer: EventProducer, checked: Checked, ids: list[bytes], stamp: Stamp) -> Delivery:
    """Of a request without a rejection. Raises KafkaUnavailable with nothing sent."""
    delivery = producer.send(spec.topic.name, checked.values, checked.keys, stamp.headers(ids))
    await delivery.done
    return delivery


async def send_some(
    spec: Spec, producer: EventProducer, checked: Checked, ids: list[bytes], stamp: Stamp
) -> tuple[list[Fate], Delivery | None]:
    """Events to their topic, and those that are to be dead letters to theirs; one fate for each event.

    Returns also the delivery that failed, if one did. Raises KafkaUnavailable with nothing sent.
    """
    good = [place for place in range(len(ids)) if place not in checked.rejections]
    bad = [place for place, why in checked.rejections.items() if goes_to_letters(spec, why)]
    fates = [Fate("rejected", b"", checked.rejections.get(place)) for place in range(len(ids))]
    sent: list[tuple[str, list[int], Delivery]] = []
    producer.check(len(good) + len(bad))
    if good:
        sent.append(("accepted", good, _send(spec.topic.name, producer, checked, good, stamp.headers(_at(ids, good)))))
    if bad:
        headers = stamp.headers(_at(ids, bad))
        failed_at = datetime.fromtimestamp(stamp.received_ns / 1e9, UTC)
        for place, header in zip(bad, headers, strict=True):
            header.extend(_letter(spec, checked.rejections[place], failed_at))
        sent.append(("dead_lettered", bad, _send(spec.dead_letters.topic, producer, checked, bad, headers)))
    failed = None
    if sent:
        await asyncio.gather(*(delivery.done for _, _, delivery in sent))
    for status, places, delivery in sent:
        failed = delivery if delivery.error is not None else failed
        for place in places:
            lost = checked.values[place] in delivery.failed
            fates[place] = Fate("unavailable" if lost else status, ids[place], checked.rejections.get(place))
    return fates, failed


def _send(topic: str, producer: EventProducer, checked: Checked, places: list[int], headers: list[Headers]) -> Delivery:
    keys = None if checked.keys is None else [checked.keys[place] for place in places]
    return producer.hand_over(topic, [checked.values[place] for place in places], keys, headers)


def _at(ids: list[bytes], places: list[int]) -> list[bytes]:
    return [ids[place] for place in places]


def _letter(spec: Spec, why: Rejection, failed_at: datetime) -> Headers:
    failure = Failure(why.reason, why.field, why.message)
    return list(
        letter_headers(
            pipeline=spec.name, stage="gateway", failure=failure, origin=None, failed_at=failed_at, version=__version__
        )
    )
