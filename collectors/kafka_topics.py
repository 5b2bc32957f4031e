"""Topics: where they begin, and what they still hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from kafka.protocol.consumer import OffsetSpec

from collectors.base import Bulk, Context, Reading, Sample, Unmeasured
from collectors.kafka.history import matched
from collectors.kafka.offsets import fetch_ends
from collectors.kafka.state import kafka_state, wire_for
from tidewatch.telemetry.catalogue import collectors_kafka as m
from tidewatch.telemetry.exposition import Block

_EVERY = 4


class KafkaTopics:
    """The beginnings of partitions move seldom, so that they are read less often than their ends."""

    name = "kafka_topics"

    def __init__(self, context: Context) -> None:
        self.interval = context.settings.collect.interval_seconds * _EVERY
        self._clock = context.clock
        self._state = context.shared(kafka_state)
        self._wire = wire_for(context, "topics")
        self._blocks: dict[str, Block] = {}

    def collect(self) -> Iterator[Reading]:
        lags, cluster = self._state.reading()
        now = self._clock.now()
        starts = fetch_ends(self._wire, cluster, OffsetSpec.EARLIEST)
        self._state.starts = starts.offsets
        for topic, why in starts.failed.items():
            yield Unmeasured(f"beginning of topic {topic}", why, now)
        self._blocks = {name: block for name, block in self._blocks.items() if name in starts.offsets}
        for topic, offsets in starts.offsets.items():
            known = offsets >= 0
            if not known.all() or not len(known):
                continue
            yield Bulk(self._block(topic, len(offsets)), offsets.tolist(), now)
            ends = matched(lags.ends[topic], len(offsets)) if topic in lags.ends else None
            if ends is not None and (ends >= 0).all():
                yield Sample(m.RETAINED, (topic,), int(np.maximum(ends - offsets, 0).sum()), now)

    def _block(self, topic: str, width: int) -> Block:
        kept = self._blocks.get(topic)
        if kept is None or kept.size != width:
            kept = self._blocks[topic] = Block(m.KE_OLDEST, [(topic, str(number)) for number in range(width)])
        return kept


COLLECTOR = KafkaTopics
