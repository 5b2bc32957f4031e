"""offered = accepted + dead-lettered + rejected, by project and pipeline.

Counted as metrics, and each second as records of the `accounting` pipeline, so that the warehouse can say it alone.
What a crash loses of those, a second at the most, shows as a gap between two `second`s of one gateway.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ingest.gateway.problems import Rejection
from ingest.gateway.producer import EventProducer, Headers
from tidewatch.clock import Clock
from tidewatch.errors import KafkaUnavailable
from tidewatch.record import ENVELOPE, envelope_suffix, rfc3339
from tidewatch.spec import Spec
from tidewatch.telemetry.catalogue.gateway import ACCOUNTING_WAITING, BYTES, EVENTS, INSTANCE, REJECTED
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.metrics import Registry

log = get_logger(__name__)
# While Kafka is away the seconds wait here; beyond this many the older half is added up by outcome.
_MAX_WAITING = 100_000
_BATCH = 1000
OTHER = "(other)"
_NO_TRACE = f"00-{'0' * 31}1-{'0' * 15}1-00"


class Outcome(NamedTuple):
    pipeline: str
    project: str
    outcome: str
    field: str = ""
    reason: str = ""


class Part(NamedTuple):
    """What one flush found of one outcome."""

    second: str
    flush: int
    outcome: Outcome


class Accounting:
    """Counts on the event loop; `flush` sends what was counted, once a second."""

    def __init__(self, spec: Spec, producer: EventProducer, registry: Registry, clock: Clock) -> None:
        """`spec` is that of the accounting pipeline."""
        self.gateway = uuid.uuid4().hex
        self._spec = spec
        self._producer = producer
        self._clock = clock
        self._now: dict[Outcome, int] = {}
        """Of this second, for the records."""
        self._new: dict[Outcome, int] = {}
        """Since the last `publish`, for the metrics."""
        self._new_bytes: Counter[str] = Counter()
        self._waiting: dict[Part, int] = {}
        """A part is never added to once it may have been sent: under one event id there is one count."""
        self._flushes = 0
        self._events = registry.counter(EVENTS)
        self._rejected = registry.counter(REJECTED)
        self._bytes = registry.counter(BYTES)
        registry.gauge(INSTANCE).labels(self.gateway).set(1)
        registry.gauge(ACCOUNTING_WAITING).set_function(lambda: len(self._waiting))

    def accepted(self, pipeline: str, project: str, count: int, size: int) -> None:
        self._add(Outcome(pipeline, project, "accepted"), count)
        self._new_bytes[pipeline] += size

    def refused(self, pipeline: str, project: str, rejection: Rejection, *, known: bool) -> None:
        """`known`: the field is one of the schema's; the names of others are the client's, and would be boundless."""
        field = rejection.field if known else OTHER
        self._add(Outcome(pipeline, project, "rejected", field, rejection.reason), 1)

    def dead_lettered(self, pipeline: str, project: str, rejection: Rejection, size: int, *, known: bool) -> None:
        field = rejection.field if known else OTHER
        self._add(Outcome(pipeline, project, "dead_lettered", field, rejection.reason), 1)
        self._new_bytes[pipeline] += size

    def turned_away(self, pipeline: str, project: str, reason: str, count: int) -> None:
        """Events that were not at fault: Kafka was away, or a limit was reached."""
        self._add(Outcome(pipeline, project, "rejected", "", reason), count)

    def _add(self, outcome: Outcome, count: int) -> None:
        self._now[outcome] = self._now.get(outcome, 0) + count
        self._new[outcome] = self._new.get(outcome, 0) + count

    def publish(self) -> None:
        """Bring the metrics up to date. Requests only add to dictionaries, which costs a fifth."""
        for outcome, count in self._new.items():
            pipeline, project, what, field, reason = outcome
            self._events.labels(pipeline, project, what).inc(count)
            if reason:
                self._rejected.labels(pipeline, project, what, field, reason).inc(count)
        for pipeline, size in self._new_bytes.items():
            self._bytes.labels(pipeline).inc(size)
        self._new.clear()
        self._new_bytes.clear()

    async def flush(self) -> bool:
        """Send what was counted since the last flush, and what waits from before; whether all is acknowledged."""
        self.publish()
        second = rfc3339(self._clock.now().replace(microsecond=0))
        self._flushes += 1
        for outcome, count in self._now.items():
            self._waiting[Part(second, self._flushes, outcome)] = count
        self._now.clear()
        self._shrink()
        if not self._waiting:
            return True
        batch = dict(list(self._waiting.items())[:_BATCH])
        values = [self._record(part, count) for part, count in batch.items()]
        try:
            delivery = self._producer.send(self._spec.topic.name, values, None, self._headers(batch))
        except KafkaUnavailable:
            return False
        await delivery.done
        for part, value in zip(batch, values, strict=True):
            if value not in delivery.failed:
                del self._waiting[part]
        if delivery.error is not None:
            log.warning("gateway.accounting_late", why=delivery.error.str(), records=len(self._waiting))
        return not self._waiting

    async def finish(self) -> None:
        """Send all that is left, as long as Kafka takes it."""
        for _ in range(_MAX_WAITING // _BATCH + 1):
            if await self.flush() or not self._producer.up:
                return

    def _record(self, part: Part, count: int) -> bytes:
        event: dict[str, object] = {"gateway": self.gateway, "second": part.second, **part.outcome._asdict()}
        event["events"] = count
        return msgspec.json.encode({name: value for name, value in event.items() if value != "" or name == "project"})

    def _headers(self, parts: Iterable[Part]) -> list[Headers]:
        """A part that is sent again, because its acknowledgement was lost, has the same event id again."""
        received = int(self._clock.now().timestamp() * 1_000_000)
        suffix = envelope_suffix(received, self._spec.schema_.version, "", _NO_TRACE)
        return [[(ENVELOPE, self._event_id(part) + suffix)] for part in parts]

    def _event_id(self, part: Part) -> bytes:
        name = msgspec.json.encode([part.second, part.flush, *part.outcome]).decode()
        return str(uuid.uuid5(uuid.UUID(self.gateway), name)).encode()

    def _shrink(self) -> None:
        if len(self._waiting) <= _MAX_WAITING:
            return
        parts = list(self._waiting)
        old, rest = parts[: len(parts) // 2], parts[len(parts) // 2 :]
        sums: dict[Part, int] = {}
        for part in old:
            whole = Part(old[-1].second, self._flushes, part.outcome)
            sums[whole] = sums.get(whole, 0) + self._waiting[part]
        for part in rest:
            sums[part] = sums.get(part, 0) + self._waiting[part]
        self._waiting = sums
