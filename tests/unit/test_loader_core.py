"""Intents, tokens, policy and the shaping of rows: what can be said without a model."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.loader.blocks import Identity, Range, Ranges, ranges_of
from ingest.loader.effects import Gauge, Trouble
from ingest.loader.intents import (
    MAX_BYTES,
    MAX_LETTERS,
    MAX_RANGES,
    MIXED,
    Intent,
    NewerIntent,
    Note,
    decode,
    encode,
    mark,
)
from ingest.loader.policy import Policy, Tally, Window
from ingest.loader.rows import EVENT_SCHEMA, Rows
from ingest.loader.warehouse import trouble_of
from tidewatch.errors import ClickHouseError, ClickHouseUnavailable

OFFSET = 2**63 - 2**24
TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"

ranges = st.dictionaries(
    st.integers(0, 10_000), st.tuples(st.integers(0, OFFSET), st.integers(0, 2**20)), min_size=1, max_size=8
).map(lambda spans: ranges_of({p: (first, first + length) for p, (first, length) in spans.items()}))


@given(ranges=ranges, letters=ranges, born=st.integers(0, 2**34), ttl=st.integers(0, 10**6), seen=st.integers(0, 2**60))
def test_an_intent_comes_back_as_it_was_written(
    ranges: Ranges, letters: Ranges, born: int, ttl: int, seen: int
) -> None:
    intent = Intent(TOPIC_ID, ranges, "a1b2c3", born, born + ttl, seen, letters)
    assert decode(encode(intent)) == Note(TOPIC_ID, intent)
    assert decode(encode(intent) + "\0") == Note(TOPIC_ID, intent)


def test_the_largest_block_fits_whatever_its_numbers() -> None:
    most = tuple(Range(10_000 + p, OFFSET, OFFSET + 2**20) for p in range(MAX_RANGES))
    letters = tuple(Range(1000 + p, OFFSET, OFFSET + 2**20) for p in range(MAX_LETTERS))
    text = encode(Intent(TOPIC_ID, most, "a1b2c3", 2**34, 2**34 + 10**6, 2**60, letters))
    assert len(text) <= MAX_BYTES
    with pytest.raises(ValueError, match="does not fit"):
        encode(Intent(TOPIC_ID, most * 2, "a1b2c3", 0, 0, 0))


@pytest.mark.parametrize("text", [None, "", "\0", "reset by kafka-consumer-groups", "twist"])
def test_metadata_of_other_tools_is_no_note(text: str | None) -> None:
    assert decode(text) == Note()


@pytest.mark.parametrize("text", ["tw2;whatever", "tw1;a;b;c"])
def test_what_a_newer_loader_wrote_is_not_guessed(text: str) -> None:
    with pytest.raises(NewerIntent):
        decode(text)


def test_a_mark_names_the_topic_alone() -> None:
    assert decode(mark(TOPIC_ID)) == Note(TOPIC_ID)


def test_tokens_differ_by_cluster_group_topic_and_range() -> None:
    r = (Range(0, 5, 9),)
    tokens = {
        Identity(*names).token(which)
        for names in (("c", "g", "t"), ("d", "g", "t"), ("c", "h", "t"), ("c", "g", "u"))
        for which in (r, (Range(0, 5, 8),), (Range(0, 4, 9),), (Range(1, 5, 9),), (*r, Range(1, 5, 9)))
    }
    assert len(tokens) == 20


def test_a_renewal_by_another_judge_is_remembered() -> None:
    intent = Intent(TOPIC_ID, (Range(0, 0, 0),), "aaaaaa", 10, 40, 0)
    assert intent.renewed(70, "aaaaaa").judge == "aaaaaa"
    assert intent.renewed(70, "bbbbbb").judge == MIXED
    assert intent.renewed(20, "aaaaaa").deadline == 40


def test_the_window_is_near_its_end_at_half() -> None:
    intent = Intent(TOPIC_ID, (Range(0, 0, 0),), "", 1000, 1030, 100)
    assert not Window(blocks=100).near_end(intent, Gauge(1000, 149))
    assert Window(blocks=100).near_end(intent, Gauge(1000, 150))
    assert not Window(seconds=3600).near_end(intent, Gauge(2799, 100))
    assert Window(seconds=3600).near_end(intent, Gauge(2800, 100))


def test_one_of_one_is_not_too_bad_and_a_thousand_of_a_thousand_is() -> None:
    tally = Tally(Policy(Window()))
    assert not tally.too_bad(1, 1, 0)
    assert tally.too_bad(1000, 1000, 0)
    assert not tally.too_bad(100_000, 10_000, 0)


def test_many_small_bad_blocks_add_up_and_are_forgotten_in_time() -> None:
    tally = Tally(Policy(Window()))
    for _ in range(99):
        assert not tally.too_bad(10, 10, 0)
        tally.add(10, 10, 0)
    assert tally.too_bad(10, 10, 0)
    assert not tally.too_bad(10, 10, 3600)


def test_a_pardon_lasts_until_the_worst_is_past() -> None:
    tally = Tally(Policy(Window()))
    tally.pardon()
    assert not tally.too_bad(5000, 5000, 0)
    assert not tally.too_bad(5000, 5000, 0)
    assert not tally.too_bad(5000, 1, 0)
    assert tally.too_bad(5000, 5000, 0)


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (ClickHouseUnavailable("gone", fix="-"), Trouble.UNAVAILABLE),
        (ClickHouseError("Code: 395 tidewatch:poison: while executing", fix="-", code=395), Trouble.BAD_RECORD),
        (ClickHouseError("tidewatch:late", fix="-", code=395), Trouble.DEADLINE),
        (ClickHouseError("tidewatch:poison: while pushing to view db.v", fix="-", code=395), Trouble.VIEW),
        (ClickHouseError("Too many parts", fix="-", code=252), Trouble.THROTTLED),
        (ClickHouseError("Cannot parse", fix="-", code=27), Trouble.REFUSED),
        (ClickHouseError("no such table", fix="-", code=60), Trouble.REFUSED),
    ],
)
def test_only_our_own_mark_outside_of_views_says_that_nothing_was_written(
    error: ClickHouseError, trouble: Trouble
) -> None:
    assert trouble_of(error) is trouble


def batch(*positions: tuple[int, int], tw: bytes = b"id;5;1;shop;00-aa-bb-01") -> pa.RecordBatch:
    n = len(positions)
    columns = [
        pa.array([p for p, _ in positions], pa.int32()),
        pa.array([o for _, o in positions], pa.int64()),
        pa.array([100 + o for _, o in positions], pa.int64()),
        pa.array([tw] * n, pa.binary()),
        pa.array([f"{p}/{o}".encode() for p, o in positions], pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)


def test_a_body_is_one_batch_in_order_whatever_came_in_how_many() -> None:
    rows = Rows((batch((1, 7), (0, 3), (0, 4)), batch((1, 8), (0, 9))))
    with pa.ipc.open_stream(rows.body(frozenset({(0, 4)}))) as stream:
        batches = list(stream)
    assert len(batches) == 1
    assert batches[0].column("raw").to_pylist() == [b"0/3", b"0/9", b"1/7", b"1/8"]


def test_a_rebuilt_body_is_the_same_to_the_byte() -> None:
    whole = Rows((batch((0, 1), (0, 2), (1, 1), (1, 5)),))
    pieces = Rows((batch((1, 1)), batch((0, 1)), batch((0, 2)), batch((1, 5))))
    assert whole.body() == pieces.body()


def test_nothing_left_is_an_empty_body() -> None:
    assert Rows((batch((0, 1)),)).body(frozenset({(0, 1)})) == b""


def test_extents_and_partitions_that_leave() -> None:
    rows = Rows((batch((1, 7), (0, 3), (0, 4)), batch((1, 8))))
    assert {p: (x.records, x.last, x.min_appended_ms, x.max_appended_ms) for p, x in rows.extents().items()} == {
        0: (2, 4, 103, 104),
        1: (2, 8, 107, 108),
    }
    assert len(rows.without_partitions({1})) == 2


def test_sampled_traces_are_found_and_times_read() -> None:
    rows = Rows((batch((0, 1)), batch((0, 2), tw=b"id;9;1;shop;00-aa-bb-00"), batch((0, 3), tw=b"")))
    assert rows.sampled(10) == ["00-aa-bb-01"]
    assert rows.received_us() == [5, 9, 103_000]
