"""Records to Kafka, each with an answer that is true.

Delivery reports are polled on the event loop: a thread of its own makes them dearer by half, for it fights for the
interpreter with the requests that it serves (docs/gateway-costs.md).

A circuit keeps an outage cheap. It opens when Kafka stops acknowledging, so that requests are refused at once rather
than after the delivery timeout, and closes when a probe record is acknowledged: real events never test the water.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from ingest.gateway.delivery import Delivery
from tidewatch.errors import KafkaUnavailable
from tidewatch.kafka.client import producer_config, translate
from tidewatch.settings import Settings
from tidewatch.telemetry.catalogue.gateway import KAFKA_UP, PRODUCERS_REPLACED, WAITING
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.metrics import Registry

log = get_logger(__name__)
_POLL_SECONDS = 0.001
_IDLE_POLL_SECONDS = 0.25
_WATCH_SECONDS = 0.25
# Something waits and nothing was acknowledged for so long: Kafka is away, or as good as.
_STALL_SECONDS = 2.0
_FRESH_SECONDS = 2.0
_TOPIC_EVERY_SECONDS = 5.0
_NO_TOPIC = frozenset((KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC))  # noqa: SLF001 — librdkafka's own

# As confluent-kafka types them; ours are always bytes.
Headers = list[tuple[str, str | bytes | None]]
MakeProducer = Callable[[dict[str, Any]], Producer]


class EventProducer:
    """Belongs to one event loop: `start` and `close` it there, and call `send` from nowhere else."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        make: MakeProducer = Producer,
        make_probe_topic: Callable[[], None] | None = None,
    ) -> None:
        """`make_probe_topic` is called, in a thread, when a probe fails because its topic is missing."""
        self._make_probe_topic = make_probe_topic
        self._topic_made_at = float("-inf")
        self._probe_topic = settings.gateway.probe_topic
        self._room = settings.gateway.max_waiting_events
        self._config = _config(settings) | {"error_cb": self._on_error, "logger": logging.getLogger("librdkafka")}
        self._make = make
        self._producer = make(self._config)
        self._retired: list[Producer] = []
        self._replaced = registry.counter(PRODUCERS_REPLACED)
        self._up = registry.gauge(KAFKA_UP)
        registry.gauge(WAITING).set_function(lambda: len(self._producer))
        self._open = True
        self._suspect = False
        self._fatal = False
        self._last_ack = float("-inf")
        # In the order of sending: the first is the oldest.
        self._sent: dict[Delivery, None] = {}
        self._busy = False
        self._probe: asyncio.Task[bool] | None = None

    async def start(self, within: float) -> bool:
        """Begin to poll and to watch; whether Kafka acknowledged a probe within `within` seconds."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_POLL_SECONDS, self._poll)
        self._watch = self._loop.create_task(self._watch_circuit())
        return await self.ready(within)

    async def close(self, within: float) -> int:
        """Wait for what is on its way, and return how many records were given up after `within` seconds."""
        if waiting := [delivery.done for delivery in self._sent]:
            await asyncio.wait(waiting, timeout=within)
        for task in (self._watch, self._probe):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._timer.cancel()
        left = len(self._producer)
        self._producer.purge()
        self._producer.poll(0)
        return left

    @property
    def up(self) -> bool:
        """False: requests are to be refused at once."""
        return not self._open

    async def ready(self, within: float) -> bool:
        """Whether Kafka acknowledged a record of late, or acknowledges a probe within `within` seconds."""
        if not self._open and self._loop.time() - self._last_ack < _FRESH_SECONDS:
            return True
        if self._probe is None or self._probe.done():
            self._probe = self._loop.create_task(self._send_probe())
        done, _ = await asyncio.wait({self._probe}, timeout=within)
        return any(probe.result() for probe in done)

    def send(
        self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None, headers: Sequence[Headers]
    ) -> Delivery:
        """Hand over records, each with its own headers, and await the delivery's `done`; it ends within the timeout.

        Raises KafkaUnavailable, with nothing sent, while Kafka is away or too much is waiting already.
        """
        self.check(len(values))
        return self.hand_over(topic, values, keys, headers)

    def check(self, count: int) -> None:
        """Raises KafkaUnavailable when `count` records are not to be handed over now."""
        if self._open:
            raise KafkaUnavailable("Kafka does not acknowledge at the moment", fix="try again in a second")
        if len(self._producer) + count > self._room:
            raise KafkaUnavailable("too many events are waiting for Kafka", fix="try again in a second")

    def hand_over(
        self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None, headers: Sequence[Headers]
    ) -> Delivery:
        """`send` after `check`."""
        delivery = Delivery(self._loop, len(values), self._on_done)
        self._sent[delivery] = None
        produce, report = self._producer.produce, delivery.report
        records = zip(values, keys or itertools.repeat(None), headers, strict=False)
        value = b""
        try:
            for value, key, header in records:
                # Arguments by position: by name they cost a quarter more.
                produce(topic, value, key, -1, report, None, 0, header)
        except (BufferError, KafkaException) as error:
            delivery.refuse([value, *(rest[0] for rest in records)], error)
        if not self._busy:
            self._busy = True
            self._timer.cancel()
            self._timer = self._loop.call_later(_POLL_SECONDS, self._poll)
        return delivery

    def _on_done(self, delivery: Delivery) -> None:
        self._sent.pop(delivery, None)
        error = delivery.error
        if error is None:
            self._last_ack = self._loop.time()
            return
        self._fatal = self._fatal or error.fatal()
        if self._fatal or isinstance(translate(error, "sending"), KafkaUnavailable):
            self._trip(error.str())

    def _on_error(self, error: KafkaError) -> None:
        """Librdkafka's own news, told from within `poll`."""
        if error.fatal():
            self._fatal = True
            self._trip(error.str())
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 — librdkafka's own code
            # It also says so when an idle connection is closed, so ask before refusing anybody.
            self._suspect = True

    def _trip(self, why: str) -> None:
        if not self._open:
            log.warning("gateway.kafka_away", why=why)
        self._open = True
        self._up.set(0)

    async def _watch_circuit(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                await self._look_at_circuit()
            except Exception:  # a circuit that nobody watches would stay open for ever
                log.exception("gateway.watch_failed")

    async def _look_at_circuit(self) -> None:
        if self._open:
            await self.ready(_STALL_SECONDS)
        elif self._suspect:
            self._suspect = False
            self._last_ack = float("-inf")
            if not await self.ready(_STALL_SECONDS):
                self._trip("all brokers are down")
        elif self._stalled():
            self._trip(f"nothing was acknowledged for {_STALL_SECONDS:g} s")

    def _stalled(self) -> bool:
        oldest = next(iter(self._sent), None)
        return oldest is not None and self._loop.time() - max(oldest.started, self._last_ack) > _STALL_SECONDS

    async def _send_probe(self) -> bool:
        delivery = self.hand_over(self._probe_topic, [b"{}"], None, [[]])
        await delivery.done
        if delivery.error is not None:
            log.warning("gateway.probe_failed", topic=self._probe_topic, why=delivery.error.str())
            if delivery.error.code() in _NO_TOPIC:
                await self._mend_probe_topic()
            return False
        if self._open:
            log.info("gateway.kafka_up")
        self._open = False
        self._up.set(1)
        return True

    async def _mend_probe_topic(self) -> None:
        """Without it the circuit would never close: a broker that came later, or was set up anew, has none."""
        now = self._loop.time()
        if self._make_probe_topic is None or now - self._topic_made_at < _TOPIC_EVERY_SECONDS:
            return
        self._topic_made_at = now
        await asyncio.to_thread(self._make_probe_topic)

    def _poll(self) -> None:
        try:
            self._take_reports()
        except Exception:  # without polling nothing would ever be answered again
            log.exception("gateway.poll_failed")
        self._busy = bool(self._sent or self._retired)
        self._timer = self._loop.call_later(_POLL_SECONDS if self._busy else _IDLE_POLL_SECONDS, self._poll)

    def _take_reports(self) -> None:
        self._producer.poll(0)
        if self._fatal:
            self._replace()
        for old in list(self._retired):
            old.poll(0)
            if len(old) == 0:
                self._retired.remove(old)

    def _replace(self) -> None:
        """After a fatal error a producer sends nothing more. What it holds fails, and is answered 503."""
        log.error("gateway.producer_replaced", why="a fatal error of the Kafka client")
        self._fatal = False
        self._replaced.inc()
        self._producer.purge()
        self._retired.append(self._producer)
        self._producer = self._make(self._config)


def _config(settings: Settings) -> dict[str, Any]:
    gateway = settings.gateway
    timeout_ms = int(gateway.delivery_timeout_seconds * 1000)
    return producer_config(
        settings.kafka,
        "tidewatch-gateway",
        linger_ms=gateway.linger_ms,
        delivery_timeout_ms=timeout_ms,
        # A topic that is missing is reported before the delivery timeout, so that it does not look like an outage.
        topic_metadata_propagation_max_ms=timeout_ms // 2,
        queue_buffering_max_messages=gateway.max_waiting_events * 2,
        queue_buffering_max_kbytes=256 * 1024,
    )
