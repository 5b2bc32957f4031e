"""Gathers what the consumer gives into a batch, until it is large enough or old enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from confluent_kafka import Message

from ingest.loader.effects import Batch
from ingest.loader.intents import MAX_RANGES
from ingest.loader.rows import Frame, Rows, runs
from tidewatch.clock import Clock


@dataclass(frozen=True, slots=True)
class Size:
    rows: int = 100_000
    bytes: int = 64 * 1024 * 1024
    seconds: float = 0.5


class Collector:
    def __init__(self, frame: Frame, size: Size, clock: Clock) -> None:
        self._frame = frame
        self._size = size
        self._clock = clock
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0
        self._lasts: dict[int, int] = {}
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self._batches)

    @property
    def room(self) -> int:
        """How many more records it takes."""
        return 0 if self._bytes >= self._size.bytes else max(0, self._size.rows - self._rows)

    @property
    def ripe(self) -> bool:
        """Worth an insert: full, or its first record has waited long enough."""
        return bool(self._batches) and (not self.room or self._clock.monotonic() - self._since >= self._size.seconds)

    @property
    def lasts(self) -> dict[int, int]:
        """Partition → offset of the last record gathered."""
        return dict(self._lasts)

    def add(self, messages: Sequence[Message]) -> None:
        """Records without errors, in the order of the consumer."""
        if not messages:
            return
        if not self._batches:
            self._since = self._clock.monotonic()
        self._append(self._frame(messages))

    def take(self) -> Batch:
        """All of it, but for partitions beyond what one intent can list: those stay for the next."""
        rows = Rows(tuple(self._batches))
        lasts = self.lasts
        self.clear()
        if len(lasts) <= MAX_RANGES:
            return Batch(lasts, rows)
        first = dict(sorted(lasts.items())[:MAX_RANGES])
        later = rows.without_partitions(first)
        self._since = self._clock.monotonic()
        for batch in later.batches:
            self._append(batch)
        return Batch(first, rows.without_partitions(set(lasts) - set(first)))

    def drop(self, partitions: Iterable[int]) -> None:
        """They belong to another member now."""
        leaving = set(partitions) & set(self._lasts)
        if not leaving:
            return
        kept = Rows(tuple(self._batches)).without_partitions(leaving)
        since = self._since
        self.clear()
        self._since = since
        for batch in kept.batches:
            self._append(batch)

    def clear(self) -> None:
        self._batches = []
        self._lasts = {}
        self._rows = self._bytes = 0

    def _append(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        offsets = batch.column(1)
        for partition, _, stop in runs(batch):
            self._lasts[partition] = offsets[stop - 1].as_py()
