"""A record on its way through every broker and back, and what it tells of the brokers' clocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from collectors.base import Context, Reading, Sample, Unmeasured
from collectors.kafka.cluster import NOBODY
from collectors.kafka.probing import Probe, Prober, prepare_topic
from collectors.kafka.state import kafka_state
from tidewatch.errors import KafkaError
from tidewatch.telemetry.catalogue import collectors_kafka as m

# The topic is looked at again after so many rounds: brokers may have come.
_ROUNDS = 40


class KafkaProbe:
    """Its topic has a partition for each broker, so that most of the time each leads one."""

    name = "kafka_probe"

    def __init__(self, context: Context) -> None:
        self.interval = context.settings.collect.interval_seconds
        self._kafka = context.settings.kafka
        self._topic = context.settings.gateway.probe_topic
        self._timeout = min(5.0, context.settings.collect.timeout_seconds / 2)
        self._clock = context.clock
        self._state = context.shared(kafka_state)
        self._prober: Prober | None = None
        self._rounds = 0

    def collect(self) -> Iterable[Reading]:
        if self._prober is None or self._rounds >= _ROUNDS:
            self.close()
            partitions = prepare_topic(self._kafka, self._topic)
            self._prober = Prober(self._kafka, self._topic, partitions, self._timeout, self._clock)
            self._rounds = 0
        self._rounds += 1
        try:
            leaders = self._prober.leaders()
            probes = self._prober.round()
        except KafkaError:
            self.close()
            raise
        return self._report(probes, leaders)

    def close(self) -> None:
        if self._prober is not None:
            self._prober.close()
            self._prober = None

    def _report(self, probes: Sequence[Probe], leaders: dict[int, int]) -> Iterator[Reading]:
        by_leader: dict[int, list[Probe]] = defaultdict(list)
        for probe in probes:
            if (leader := leaders.get(probe.partition, NOBODY)) != NOBODY:
                by_leader[leader].append(probe)
            else:
                yield Unmeasured(f"{self._topic}[{probe.partition}]", "no leader", self._clock.now())
        skews: dict[int, float] = {}
        for broker, its in by_leader.items():
            yield from self._broker(broker, its, skews)
        # Replaced as a whole: others read it meanwhile.
        self._state.skew = skews
        brokers = self._state.cluster.brokers if self._state.cluster is not None else {}
        for broker in sorted(brokers.keys() - by_leader.keys()):
            why = f"it leads no partition of {self._topic}"
            yield Unmeasured(f"probe of broker {broker}", why, self._clock.now())

    def _broker(self, broker: int, probes: Sequence[Probe], skews: dict[int, float]) -> Iterator[Reading]:
        now, label = self._clock.now(), (str(broker),)
        for probe in probes:
            if probe.error is not None:
                yield Unmeasured(f"probe of broker {broker}", probe.error, now)
            elif probe.returned_after is None:
                why = f"the record was {'not acknowledged' if probe.acknowledged_after is None else 'not read back'}"
                yield Unmeasured(f"probe of broker {broker}", f"{why} within {self._timeout:g} s", now)
        acknowledged = [p.acknowledged_after for p in probes if p.acknowledged_after is not None]
        returned = [p.returned_after for p in probes if p.returned_after is not None]
        if acknowledged:
            yield Sample(m.PROBE_ACK, label, max(acknowledged), now)
        if returned and len(returned) == len(probes):
            yield Sample(m.PROBE_ROUND_TRIP, label, max(returned), now)
        measured = [(p.acknowledged_after / 2, p) for p in probes if p.acknowledged_after and p.stamped is not None]
        if measured:
            # The record was appended at some moment between sending and acknowledgement.
            error, best = min(measured, key=lambda pair: pair[0])
            skews[broker] = (best.stamped or 0.0) - (best.sent + error)
            yield Sample(m.CLOCK_SKEW, label, round(skews[broker], 6), now)
            yield Sample(m.CLOCK_SKEW_ERROR, label, round(error, 6), now)


COLLECTOR = KafkaProbe
