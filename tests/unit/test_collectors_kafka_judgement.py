"""Causes, forecasts and record batches: pure functions on made-up groups."""

from __future__ import annotations

import struct
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from collectors.kafka.batches import Ahead, batches, look_ahead
from collectors.kafka.cause import Cause, Partition, likely_cause
from collectors.kafka.forecast import Drain, drain, rate, seconds_to_loss

# Four members with two partitions each, led by two brokers, all moving.
HEALTHY = tuple(
    Partition("t", n, 100, 3, stuck=False, growing=False, member=f"m{n % 4}", leader=n % 2, produced=10, consumed=10)
    for n in range(8)
)


def _group(*stuck: int, growing: tuple[int, ...] = ()) -> list[Partition]:
    made = [replace(p, stuck=p.number in stuck, growing=p.number in growing) for p in HEALTHY]
    return [replace(p, consumed=0.0, lag=500) if p.stuck else p for p in made]


def _cause(partitions: list[Partition], members: int | None = 4, *, storm: bool = False) -> tuple[Cause, str]:
    verdict = likely_cause(partitions, members=members, storm=storm)
    assert verdict is not None
    return verdict.cause, verdict.detail


def test_nothing_suffers_nothing_to_explain() -> None:
    assert likely_cause(_group(), members=4, storm=False) is None


def test_one_partition_stuck_while_its_member_moves_on_another_is_a_poison_record_at_its_offset() -> None:
    assert _cause(_group(5)) == (Cause.POISON_RECORD, "t[5] stands at offset 100 while its consumer moves elsewhere")


def test_all_partitions_of_one_member_are_that_member() -> None:
    assert _cause(_group(1, 5)) == (Cause.HUNG_MEMBER, "member m1 commits nothing while others do")


def test_one_partition_that_is_all_its_member_has_may_be_either_and_says_so() -> None:
    alone = [replace(p, member=f"m{p.number}") for p in _group(5)]
    cause, detail = _cause(alone, members=8)
    assert cause is Cause.HUNG_MEMBER
    assert "or cannot get past offset 100 of t[5]" in detail


def test_everything_on_one_leader_is_that_broker() -> None:
    assert _cause(_group(growing=(1, 3, 5, 7))) == (Cause.SLOW_BROKER, "every partition behind is led by broker 1")


def test_a_broker_or_member_is_blamed_only_beside_another_that_does_well() -> None:
    one_broker = [replace(p, leader=0) for p in _group(*range(8))]
    assert _cause(one_broker)[0] is Cause.DOWNSTREAM
    one_member = [replace(p, member="m0") for p in _group(*range(8))]
    assert _cause(one_member, members=1)[0] is Cause.DOWNSTREAM


def test_one_partition_with_most_of_the_records_is_a_hot_key() -> None:
    hot = [replace(p, produced=300.0) if p.number == 2 else p for p in _group(growing=(2,))]
    cause, detail = _cause(hot)
    assert cause is Cause.HOT_KEY
    assert detail == "t[2] takes about 80 % of what the topic's 8 busy partitions get"
    assert _cause([replace(p, produced=10.0) for p in hot])[0] is Cause.UNCLEAR


def test_everything_behind_is_downstream_or_too_few_members() -> None:
    assert _cause(_group(*range(8)))[0] is Cause.DOWNSTREAM
    assert _cause(_group(growing=tuple(range(8))), members=8)[0] is Cause.DOWNSTREAM
    assert _cause(_group(growing=tuple(range(8))), members=2)[0] is Cause.CAPACITY


def test_no_members_and_storms_come_first() -> None:
    assert _cause(_group(5), members=0)[0] is Cause.NO_MEMBERS
    assert _cause(_group(5), storm=True)[0] is Cause.REBALANCE_STORM


def test_without_a_contrast_it_is_unclear() -> None:
    only = [p for p in _group(5) if p.number == 5]
    assert _cause(only) == (
        Cause.UNCLEAR,
        "only t[5] has records at offset 100: a record, its consumer or what is behind it",
    )
    assert _cause(_group(0, 5))[0] is Cause.UNCLEAR


def test_time_to_drain() -> None:
    assert drain(0, 0, 5, 1) == Drain(0.0, 1)
    assert drain(600, consumed=30, produced=10, members=2) == Drain(30.0, 2)
    assert drain(600, consumed=20, produced=30, members=2) == Drain(inf, 4), "10 a second each: 36 need four"
    assert drain(600, consumed=0, produced=30, members=2) == Drain(inf, None)


def test_time_to_loss() -> None:
    assert seconds_to_loss(100, 40) == 60
    assert seconds_to_loss(100, 400) == 0
    assert seconds_to_loss(inf, 400) == inf


def test_rates_skip_what_was_not_measured_and_do_not_go_below_zero() -> None:
    times = np.array([0.0, 10.0, 20.0])
    offsets = np.array([[0, -2, 50, -2], [50, 10, 40, -2], [100, 20, 30, -2]])
    rates = rate(times, offsets)
    assert rates is not None
    assert rates[:3].tolist() == [5, 1, 0]
    assert np.isnan(rates[3]), "unknown is no rate of zero"
    assert rate(times[:1], offsets[:1]) is None


def _batch(
    base: int, count: int, at: int = 0, *, producer: int = -1, control: int | None = None, log_append: bool = False
) -> bytes:
    """A record batch of version 2; `control` is the marker's type."""
    transactional = producer >= 0
    attributes = 0x08 * log_append | 0x10 * transactional | 0x20 * (control is not None)
    # length, attributes, timestamp's and offset's delta, key's length (4, zigzag 8), version, type, value's length
    record = b"\x14\x00\x00\x00\x08" + struct.pack(">hh", 0, control) + b"\x00" if control is not None else b"payload"
    header = struct.pack(">ibIhiqqqhii", 0, 2, 0, attributes, count - 1, at, at + 7, producer, 0, 0, count)
    return struct.pack(">qi", base, len(header) + len(record)) + header + record


COMMIT, ABORT = 1, 0


def test_a_transactions_marker_is_no_record() -> None:
    assert look_ahead(_batch(5, 1, producer=1, control=COMMIT), 5) == Ahead(None, hidden=1, reached=6)


def test_the_oldest_record_behind_a_commit_gives_the_time() -> None:
    data = _batch(0, 3, at=1000) + _batch(3, 1, producer=1, at=2000) + _batch(4, 1, producer=1, control=COMMIT)
    assert look_ahead(data, 1) == Ahead(1000, hidden=1, reached=5)
    assert look_ahead(data, 3) == Ahead(2000, hidden=1, reached=5)
    assert look_ahead(_batch(0, 3, at=1000, log_append=True), 0).oldest_ms == 1007


def test_aborted_records_are_none_and_open_ones_may_be() -> None:
    aborted = _batch(0, 2, at=1000, producer=1) + _batch(2, 1, producer=1, control=ABORT)
    assert look_ahead(aborted, 0) == Ahead(None, hidden=3, reached=3)
    committed_before = (
        _batch(0, 1, at=500, producer=1)
        + _batch(1, 1, producer=1, control=COMMIT)
        + _batch(2, 1, at=900, producer=1)
        + _batch(3, 1, producer=1, control=ABORT)
    )
    assert look_ahead(committed_before, 0) == Ahead(500, hidden=3, reached=4)
    assert look_ahead(_batch(0, 2, at=1000, producer=1), 0) == Ahead(1000, hidden=0, reached=2)


def test_gaps_of_compaction_hold_no_record() -> None:
    assert look_ahead(_batch(10, 1, at=5), 4) == Ahead(5, hidden=6, reached=11)


@pytest.mark.parametrize("cut", [0, 10, 60, 61, 66])
def test_a_batch_that_is_cut_off_is_left_out(cut: int) -> None:
    assert [batch.base for batch in batches(_batch(0, 1) + _batch(1, 1)[:cut])] == [0]
