"""The headers of record batches: when records were written, and which offsets hold none.

A batch is never decompressed: its header tells its time, its count, and whether it is a transaction's marker.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# Base offset, length, leader epoch, magic, checksum, attributes, last offset's delta, first and greatest timestamp,
# producer's id, epoch and sequence, count of records.
_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_FROM = 12
_MAGIC = 2
_LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x08, 0x10, 0x20
_ABORT = 0


class Batch(NamedTuple):
    base: int
    last: int
    at_ms: int
    """Of its records, the oldest; with LogAppendTime they all have one time."""
    records: int
    producer: int
    transactional: bool
    control: bool
    aborts: bool
    """A marker that ends its producer's transaction by aborting it."""


def batches(data: bytes) -> Iterator[Batch]:
    """Of what a fetch returned; the last batch may be cut off, which is how brokers answer, and is left out."""
    position = 0
    while position + _HEADER.size <= len(data):
        base, length, _, magic, _, attributes, delta, first, greatest, producer, _, _, count = _HEADER.unpack_from(
            data, position
        )
        end = position + _LENGTH_FROM + length
        if magic != _MAGIC or end > len(data):
            return
        control = bool(attributes & _CONTROL)
        yield Batch(
            base=base,
            last=base + delta,
            at_ms=greatest if attributes & _LOG_APPEND_TIME else first,
            records=count,
            producer=producer,
            transactional=bool(attributes & _TRANSACTIONAL),
            control=control,
            aborts=control and _marker(data[position + _HEADER.size : end]) == _ABORT,
        )
        position = end


def _marker(record: bytes) -> int:
    """The type in a control record's key: 0 abort, 1 commit."""
    position = 0
    for field in range(5):  # length, attributes, timestamp's and offset's delta, length of the key
        position = position + 1 if field == 1 else _after_varint(record, position)
    return int(struct.unpack_from(">hh", record, position)[1])


def _after_varint(data: bytes, position: int) -> int:
    while data[position] & 0x80:
        position += 1
    return position + 1


@dataclass(frozen=True)
class Ahead:
    """What lies between a commit and as far as was looked."""

    oldest_ms: int | None
    """When the oldest record there was written; None when there is none."""
    hidden: int
    """Offsets that hold no record for a consumer: markers, aborted records, compacted gaps."""
    reached: int
    """The offset after the last one looked at."""


class _Seen:
    """Records, and when the oldest of them was written."""

    def __init__(self) -> None:
        self.records = 0
        self.oldest: int | None = None

    def add(self, records: int, at_ms: int | None) -> None:
        self.records += records
        if at_ms is not None:
            self.oldest = at_ms if self.oldest is None else min(self.oldest, at_ms)


def look_ahead(data: bytes, commit: int) -> Ahead:
    """An open transaction's records count: whether they will be aborted nobody knows yet."""
    settled, transactions = _Seen(), defaultdict[int, _Seen](_Seen)
    reached = commit
    for batch in batches(data):
        if batch.last < commit:
            continue
        reached = batch.last + 1
        if batch.control:
            ended = transactions.pop(batch.producer, _Seen())
            if not batch.aborts:
                settled.add(ended.records, ended.oldest)
            continue
        into = transactions[batch.producer] if batch.transactional else settled
        into.add(min(batch.records, batch.last + 1 - max(batch.base, commit)), batch.at_ms)
    for still_open in transactions.values():
        settled.add(still_open.records, still_open.oldest)
    return Ahead(settled.oldest, reached - commit - settled.records, reached)
