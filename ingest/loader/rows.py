"""Records on their way to an insert: columns in Arrow, built from confluent-kafka's messages without a loop per row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Message

from ingest.loader.blocks import Position
from tidewatch.kafka.headers import UNREADABLE, headers_of, native_headers
from tidewatch.record import ENVELOPE

_BASE = [("_partition", pa.int32()), ("_offset", pa.int64()), ("_appended_ms", pa.int64())]
EVENT_SCHEMA = pa.schema([*_BASE, ("tw", pa.binary()), ("raw", pa.binary())])
HEADERS = pa.map_(pa.string(), pa.binary())
LETTER_SCHEMA = pa.schema(
    [*_BASE, ("tw", pa.binary()), ("key", pa.binary()), ("raw", pa.binary()), ("headers", HEADERS)]
)

_NOT_TOLD = b"unreadable"

Frame = Callable[[Sequence[Message]], pa.RecordBatch]
"""Messages of one topic, without errors among them, as columns."""


def frame_events(messages: Sequence[Message]) -> pa.RecordBatch:
    columns = [
        *_positions(messages),
        pa.array([_envelope(native_headers(m)) for m in messages], pa.binary()),
        pa.array([m.value() or b"" for m in messages], pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)


def frame_letters(messages: Sequence[Message]) -> pa.RecordBatch:
    """`headers` are all but `tw`, the last of equal names."""
    headers = [dict(headers_of(m) or ()) for m in messages]
    envelopes = [found.pop(ENVELOPE, b"") for found in headers]
    columns = [
        *_positions(messages),
        pa.array(envelopes, pa.binary()),
        pa.array([_bytes(m.key()) for m in messages], pa.binary()),
        pa.array([_bytes(m.value()) for m in messages], pa.binary()),
        pa.array([list(found.items()) for found in headers], HEADERS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=LETTER_SCHEMA)


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value or b"")


def _positions(messages: Sequence[Message]) -> list[pa.Array]:
    return [
        pa.array([m.partition() for m in messages], pa.int32()),
        pa.array([m.offset() for m in messages], pa.int64()),
        pa.array([m.timestamp()[1] for m in messages], pa.int64()),
    ]


def _envelope(headers: Any) -> bytes:
    if not headers:
        # Whoever wrote it, it cannot be told: as a malformed header, this makes the record a dead letter.
        return _NOT_TOLD if headers is UNREADABLE else b""
    # The gateway writes it first; others may not.
    name, value = headers[0]
    if name == ENVELOPE:
        return value or b""
    return next((value or b"" for name, value in headers if name == ENVELOPE), b"")


@dataclass(frozen=True, slots=True)
class Kept:
    """What a block still knows of a record: reads like confluent-kafka's Message."""

    envelope: bytes
    raw: bytes

    def value(self) -> bytes:
        return self.raw

    def key(self) -> None:
        return None

    def headers(self) -> list[tuple[str, bytes]]:
        return [(ENVELOPE, self.envelope)] if self.envelope else []


class Extent(NamedTuple):
    """What a block holds of one partition."""

    records: int
    last: int
    min_appended_ms: int
    max_appended_ms: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Records of one topic; immutable."""

    batches: tuple[pa.RecordBatch, ...]

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self.batches)

    @property
    def nbytes(self) -> int:
        return sum(batch.nbytes for batch in self.batches)

    def extents(self) -> dict[int, Extent]:
        found: dict[int, Extent] = {}
        for batch in self.batches:
            for partition, start, stop in runs(batch):
                offsets, times = batch.column(1), batch.column(2).slice(start, stop - start)
                low, high = pc.min_max(times).as_py().values()
                extent = Extent(stop - start, offsets[stop - 1].as_py(), low, high)
                found[partition] = _joined(found[partition], extent) if partition in found else extent
        return found

    def without_partitions(self, partitions: Iterable[int]) -> Rows:
        leaving = pa.array(sorted(partitions), pa.int32())
        kept = (b.filter(pc.invert(pc.is_in(b.column(0), value_set=leaving))) for b in self.batches)
        return Rows(tuple(batch for batch in kept if batch.num_rows))

    def combined(self, skip: frozenset[Position] = frozenset()) -> pa.RecordBatch | None:
        """Everything but `skip` as ONE batch, by partition and offset; None when nothing is left.

        One, because ClickHouse's deduplication counts a batch of the stream as a block of its own: the same token over
        other batches is another insert (tests/e2e/test_loader_dedup.py holds that).
        """
        if not self.batches:
            return None
        whole = pa.concat_batches(self.batches) if len(self.batches) > 1 else self.batches[0]
        if skip:
            whole = whole.filter(pa.array(~_in(whole, skip)))
        partitions = whole.column(0).to_numpy()
        if np.any(partitions[1:] < partitions[:-1]):
            whole = whole.take(pa.array(np.argsort(partitions, kind="stable")))
        return whole if whole.num_rows else None

    def body(self, skip: frozenset[Position] = frozenset()) -> bytes:
        """An Arrow stream of one batch; empty when nothing is left."""
        whole = self.combined(skip)
        if whole is None:
            return b""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, whole.schema) as stream:
            stream.write_batch(whole)
        body: bytes = sink.getvalue().to_pybytes()
        return body

    def positions(self, skip: frozenset[Position] = frozenset()) -> dict[int, Any]:
        """Partition → its offsets, sorted, but those of `skip`."""
        whole = self.combined(skip)
        if whole is None:
            return {}
        partitions, offsets = whole.column(0).to_numpy(), whole.column(1).to_numpy()
        return {int(p): offsets[partitions == p] for p in np.unique(partitions)}

    def kept(self, position: Position) -> Kept:
        """Raises KeyError for a record that is not among them."""
        for batch in self.batches:
            here = batch.filter(pa.array(_in(batch, frozenset({position}))))
            if here.num_rows:
                return Kept(here.column("tw")[0].as_py(), here.column("raw")[0].as_py())
        raise KeyError(position)

    def sampled(self, most: int) -> list[str]:
        """Traceparents of up to `most` records whose trace is sampled; two bytes of each record are looked at."""
        found: list[str] = []
        for batch in self.batches:
            envelopes = batch.column("tw") if "tw" in batch.schema.names else pa.array([], pa.binary())
            hits = envelopes.filter(pc.ends_with(envelopes, "01")) if len(envelopes) else envelopes
            found += [
                value.as_py().decode("ascii", "replace").rpartition(";")[2] for value in hits[: most - len(found)]
            ]
            if len(found) >= most:
                break
        return found

    def received_us(self) -> list[int]:
        """When the first and the last records of each batch were received; without a header, when appended."""
        edges = [(batch, row) for batch in self.batches for row in {0, batch.num_rows - 1}]
        return [_received(batch, row) for batch, row in edges]


def runs(batch: pa.RecordBatch) -> list[tuple[int, int, int]]:
    """(partition, start, stop) of rows on end that share a partition."""
    partitions = batch.column(0).to_numpy()
    if not len(partitions):
        return []
    edges = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(partitions)]
    return [(int(partitions[start]), start, stop) for start, stop in pairwise(edges)]


def _joined(first: Extent, then: Extent) -> Extent:
    return Extent(
        first.records + then.records,
        max(first.last, then.last),
        min(first.min_appended_ms, then.min_appended_ms),
        max(first.max_appended_ms, then.max_appended_ms),
    )


def _in(batch: pa.RecordBatch, positions: frozenset[Position]) -> Any:
    partitions, offsets = batch.column(0).to_numpy(), batch.column(1).to_numpy()
    found = np.zeros(len(partitions), dtype=bool)
    for partition in {p for p, _ in positions}:
        wanted = np.array([o for p, o in positions if p == partition], dtype=np.int64)
        found |= (partitions == partition) & np.isin(offsets, wanted)
    return found


def _received(batch: pa.RecordBatch, row: int) -> int:
    appended: int = batch.column(2)[row].as_py() * 1000
    if "tw" not in batch.schema.names:
        return appended
    parts = batch.column("tw")[row].as_py().split(b";", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else appended
