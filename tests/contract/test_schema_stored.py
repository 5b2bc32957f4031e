"""What was accepted comes back from ClickHouse equal to what was sent, once, and counted in the aggregates."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schema_world import (
    APPENDED_MS,
    FOREVER,
    TOPIC_ID,
    TRACEPARENT,
    World,
    body,
    envelope,
    frame,
    make_spec,
    open_world,
)

from ingest.schema import extract
from ingest.schema.stored import stored_event
from tidewatch.errors import ClickHouseError
from tidewatch.record import Failure, Origin, letter_headers
from tidewatch.spec import Spec

ALL_TYPES = """
{name: s, type: string}
{name: i8, type: int8}
{name: i16, type: int16}
{name: i32, type: int32}
{name: i64, type: int64}
{name: u8, type: uint8}
{name: u16, type: uint16}
{name: u32, type: uint32}
{name: u64, type: uint64}
{name: f, type: float64}
{name: b, type: bool}
{name: t, type: timestamp}
{name: d, type: date}
{name: id, type: uuid}
{name: dec, type: "decimal(38,9)"}
{name: j, type: json}
{name: strs, type: array(string)}
{name: ints, type: array(int64)}
{name: floats, type: array(float64)}
"""


@pytest.fixture
def world(clickhouse: Any, fresh: str) -> Iterator[World]:
    opened = open_world(clickhouse.url, f"schema_{fresh}")
    yield opened
    opened.client.command(f"DROP DATABASE {opened.database} SYNC")
    opened.client.close()


def back(world: World, spec: Spec, raws: list[bytes]) -> list[dict[str, Any]]:
    """What comes back for `raws`, in a table that held nothing."""
    world.client.command(f"TRUNCATE TABLE {world.database}.{spec.table.name}")
    world.insert(spec, body(raws))
    # The typed column is for queries, and the client cannot build every document from its paths.
    nested = [field.name for field in spec.schema_.fields if field.type == "json"]
    rows = world.rows(spec, f"* EXCEPT ({', '.join(nested)})" if nested else "*")
    assert len(rows) == len(raws)
    return [stored_event(spec, row) for row in rows]


def test_the_ends_of_every_type_come_back(world: World) -> None:
    spec = make_spec(ALL_TYPES, name="types")
    world.create(spec)
    low = {
        "i8": -128, "i16": -(2**15), "i32": -(2**31), "i64": -(2**63), "u8": 0, "u16": 0, "u32": 0, "u64": 0,
        "f": 5e-324, "b": False, "s": "", "j": {}, "strs": [], "ints": [-(2**63)], "floats": [-1.7976931348623157e308],
    }  # fmt: skip
    high = {
        "i8": 127, "i16": 2**15 - 1, "i32": 2**31 - 1, "i64": 2**63 - 1, "u8": 255, "u16": 2**16 - 1, "u32": 2**32 - 1,
        "u64": 2**64 - 1, "f": 1.7976931348623157e308, "b": True, "s": "\x00\U0010ffff", "j": {"a": [1, {"b": "c"}]},
        "strs": ["", "é"], "ints": [2**63 - 1], "floats": [0.1, 5e-324],
    }  # fmt: skip
    others = {
        "t": "1900-01-01T05:30:00.000001+05:30",
        "d": "2299-12-31",
        "id": "61F0C404-5CB3-11E7-907B-A6006AD3DBA0",
        "dec": "-12345678901234567890123456789.123456789",
    }
    raws = [json.dumps(event).encode() for event in (low, high, others, {})]
    assert back(world, spec, raws) == [
        low,
        high,
        {
            "t": datetime(1900, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
            "d": date(2299, 12, 31),
            "id": UUID("61f0c404-5cb3-11e7-907b-a6006ad3dba0"),
            "dec": Decimal("-12345678901234567890123456789.123456789"),
        },
        {},
    ]


def test_a_ninth_decimal_of_a_second_is_cut_and_decimals_as_numbers_are_exact(world: World) -> None:
    spec = make_spec(ALL_TYPES, name="types")
    world.create(spec)
    raws = [b'{"t":"2026-08-01T00:00:00.123456789Z"}', b'{"dec":0.1}', b'{"dec":123456}', b'{"dec":1.25e2}']
    assert back(world, spec, raws) == [
        {"t": datetime(2026, 8, 1, 0, 0, 0, 123456, tzinfo=UTC)},
        {"dec": Decimal("0.1")},
        {"dec": Decimal(123456)},
        {"dec": Decimal(125)},
    ]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('ab."\\é', max_size=3), inner, max_size=4),
    max_leaves=12,
)


def test_json_and_unknown_keys_come_back_with_nulls_empties_and_large_integers(world: World) -> None:
    spec = make_spec("{name: j, type: json}", name="nested")
    world.create(spec)

    @settings(
        max_examples=10,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(st.tuples(st.dictionaries(st.text(max_size=3), JSON, max_size=4), JSON), min_size=1, max_size=30))
    def holds(documents: list[tuple[dict[str, Any], Any]]) -> None:
        events = [{"j": inner, "other": unknown} for inner, unknown in documents]
        raws = [json.dumps(event, ensure_ascii=False).encode() for event in events]
        poison = world.poison(spec, body(raws))
        kept = [offset for offset in range(len(raws)) if offset not in poison]
        # What is refused is only what ClickHouse could not tell apart: paths that stand twice.
        assert {reason[0] for reason in poison.values()} <= {"bad_format"}
        if kept:
            for found, i in zip(back(world, spec, [raws[i] for i in kept]), kept, strict=True):
                assert same(found, events[i]), raws[i]

    holds()


def same(found: Any, sent: Any) -> bool:
    """Equal, where a double may come back as the integer that reads as the same double."""
    if isinstance(sent, dict):
        return isinstance(found, dict) and found.keys() == sent.keys() and all(same(found[k], sent[k]) for k in sent)
    if isinstance(sent, list):
        return isinstance(found, list) and len(found) == len(sent) and all(map(same, found, sent))
    if isinstance(sent, float) and type(found) is int:
        return float(found) == sent
    return type(found) is type(sent) and bool(found == sent)


def data(path: str) -> Path:
    root = os.environ.get("TIDEWATCH_DATA")
    if not root or not (Path(root) / path).exists():
        pytest.skip(f"TIDEWATCH_DATA has no {path}")
    return Path(root) / path


def test_naughty_strings_come_back(world: World) -> None:
    folder = data("dirty/naughty_strings")
    spec = make_spec(
        "{name: s, type: string, required: true}\n{name: j, type: json}\n{name: strs, type: array(string)}"
    )
    world.create(spec)
    files = [path for path in sorted(folder.iterdir()) if path.suffix == ".json"]
    texts = [text for path in files for text in json.loads(path.read_text(encoding="utf-8"))]
    assert len(texts) > 400
    events = [{"s": text, "j": {"k": text}, "strs": [text, text], "other": text} for text in texts]
    for escaped in (True, False):
        raws = [json.dumps(event, ensure_ascii=escaped).encode() for event in events]
        assert back(world, spec, raws) == events


def test_githubs_timeline_comes_back(world: World) -> None:
    (path,) = data("app_events").glob("gharchive*")
    spec = make_spec("{name: event, type: string, required: true}\n{name: properties, type: json}")
    world.create(spec)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        events = [{"event": item["type"], "properties": item} for item in map(json.loads, lines)]
    assert len(events) > 100
    raws = [json.dumps(event).encode() for event in events]
    assert world.poison(spec, body(raws)) == {}
    assert back(world, spec, raws) == events
    typed = f"SELECT count() FROM {world.database}.raw_things WHERE properties.repo.name != ''"
    assert world.client.scalar(typed) == sum(1 for event in events if event["properties"]["repo"]["name"])


def test_a_record_keeps_where_it_stood_and_what_its_header_said(world: World) -> None:
    spec = make_spec("{name: s, type: string}")
    world.create(spec)
    header = envelope("order:7", received_us=1_700_000_000_123_456, version=3, project="shop-2")
    world.insert(spec, body([b'{"s":"ours"}', b'{"s":"foreign"}'], [header, b""], first=41))
    ours, foreign = world.rows(spec)
    assert (ours["_topic_id"], ours["_partition"], ours["_offset"]) == (TOPIC_ID, 0, 41)
    assert (ours["_event_id"], ours["_project"], ours["_schema"]) == ("order:7", "shop-2", 3)
    assert ours["_received_at"] == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert (foreign["_event_id"], foreign["_project"], foreign["_schema"]) == (f"{TOPIC_ID}:0:42", "", 0)
    assert foreign["_received_at"] == datetime.fromtimestamp((APPENDED_MS + 1) / 1000, UTC)


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        (envelope(), True),
        (envelope("e" * 128), True),
        (envelope("e" * 129), False),
        (envelope("a b"), False),
        (envelope(project=""), True),
        (envelope(project="Shop"), False),
        (envelope(project="s" * 64), False),
        (envelope(version=65_535), True),
        (envelope(version=65_536), False),
        (envelope(received_us=5), False),
        (envelope(received_us=4_102_444_800_000_000), False),
        (envelope(received_us=10**25), False),
        (envelope() + b";more", False),
        (b"x", False),
        (b";;;;", False),
        ("é;1767225600000000;1;shop;x".encode(), False),
    ],
)
def test_a_header_that_is_none_of_ours_is_poison(world: World, header: bytes, fits: bool) -> None:  # noqa: FBT001
    spec = make_spec("{name: s, type: string}")
    world.create(spec)
    found = world.poison(spec, body([b"{}"], [header]))
    assert [reason[:2] for reason in found.values()] == ([] if fits else [("bad_header", "tw")])
    assert world.refuses(spec, body([b"{}"], [header])) is not fits


def test_a_clients_own_event_id_is_no_unknown_field(world: World) -> None:
    spec = make_spec("{name: s, type: string}", unknown="refuse")
    world.create(spec)
    raw = b'{"s":"x","event_id":"mine"}'
    assert world.poison(spec, body([raw], [envelope("mine")])) == {}
    assert [reason[0] for reason in world.poison(spec, body([raw])).values()] == ["unknown_field"]


def test_one_bad_record_among_many_writes_nothing(world: World) -> None:
    spec = make_spec("{name: u8, type: uint8}", aggregates="{name: sums, by: [u8], measures: {n: count()}}")
    world.create(spec)
    raws = [b'{"u8":%d}' % (i % 256) for i in range(5000)]
    assert world.refuses(spec, body([*raws, b'{"u8":256}']))
    assert (world.count(spec.table.name), world.count("sums")) == (0, 0)


def test_an_insert_after_its_deadline_writes_nothing(world: World) -> None:
    spec = make_spec("{name: s, type: string}")
    world.create(spec)
    now = int(world.client.scalar("SELECT toUnixTimestamp(now())"))
    with pytest.raises(ClickHouseError, match=extract.LATE_MARK):
        world.insert(spec, body([b"{}"] * 10), deadline=now - 1)
    assert world.count(spec.table.name) == 0
    world.insert(spec, body([b"{}"] * 10), deadline=now + 60)
    assert world.count(spec.table.name) == 10


def test_the_deadline_is_looked_at_when_the_block_has_come_not_when_the_statement_is_planned(world: World) -> None:
    """A body that is slow to arrive: the statement is planned in time, and its block is late."""
    spec = make_spec("{name: s, type: string}")
    source = f"input('{', '.join(extract.STRUCTURE)}')"
    slow = extract.insert_sql(spec, world.database).replace(
        source, f"(SELECT * FROM {source} WHERE sleepEachRow(0.5) = 0 LIMIT 1000)"
    )
    assert "sleepEachRow" in slow
    world.create(spec)
    now = int(world.client.scalar("SELECT toUnixTimestamp(now())"))
    with pytest.raises(ClickHouseError, match=extract.LATE_MARK):
        world.client.insert_body(
            slow + " FORMAT ArrowStream",
            body([b"{}"] * 5),
            parameters={"topic_id": TOPIC_ID, "deadline": now + 1},
            settings=world.settings | {"insert_deduplication_token": "slow"},
        )
    assert world.count(spec.table.name) == 0


AGGREGATES = """
{name: by_optional, time: t, by: [v, kind], measures: {n: count(), big: countIf(amount > 10), total: sum(amount), low: min(x), high: max(x), people: uniq(who)}}
{name: by_arrival, by: [_project], measures: {n: count(), some: "sumIf(x, v = 'a')"}}
"""


def _counted() -> Spec:
    fields = """
{name: t, type: timestamp}
{name: v, type: string}
{name: kind, type: string, required: true}
{name: amount, type: "decimal(10,2)"}
{name: x, type: float64}
{name: who, type: string}
"""
    return make_spec(fields, aggregates=AGGREGATES, order_by="kind")


def _events(count: int) -> list[bytes]:
    times = [
        "1950-01-01T00:30:00.5Z",
        "1969-12-31T23:59:59.999999Z",
        "2026-08-01T10:59:59Z",
        "2150-01-01T00:00:00Z",
        None,
    ]
    events = [
        {
            "t": times[i % 5],
            "v": [None, "a", "b"][i % 3],
            "kind": "k",
            "amount": f"{i}.25",
            "x": i / 3,
            "who": f"w{i % 7}",
        }
        for i in range(count)
    ]
    return [json.dumps({key: value for key, value in event.items() if value is not None}).encode() for event in events]


def test_aggregates_equal_a_recount_from_the_raw_rows(world: World) -> None:
    spec = _counted()
    world.create(spec)
    raws = _events(200)
    for start in range(0, 200, 40):
        world.insert(spec, body(raws[start : start + 40], first=start))
    assert _drift(world) == []
    hours = {row[0] for row in world.client.query(f"SELECT hour FROM {world.database}.by_optional")}
    assert datetime(1969, 12, 31, 23, tzinfo=UTC) in hours
    assert {datetime(1950, 1, 1, tzinfo=UTC), datetime(2150, 1, 1, tzinfo=UTC), None} < hours


def _drift(world: World) -> list[tuple[Any, ...]]:
    """Groups in which the view and a recount differ."""
    micros = "toUnixTimestamp64Micro(t)"
    recount = (
        f"SELECT if(isNull(t), NULL, {micros} - positiveModulo({micros}, 3600000000)) AS h, v, kind, count() AS n, "
        "countIf(amount > 10) AS big, sum(amount) AS total, min(x) AS low, max(x) AS high, uniq(who) AS people "
        f"FROM {world.database}.raw_things GROUP BY h, v, kind"
    )
    view = (
        "SELECT toUnixTimestamp64Micro(toDateTime64(hour, 6, 'UTC')) AS h, v, kind, sum(n) AS n, sum(big) AS big, "
        "sum(total) AS total, min(low) AS low, max(high) AS high, uniqMerge(people) AS people "
        f"FROM {world.database}.by_optional GROUP BY h, v, kind"
    )
    return world.client.query(f"({recount} EXCEPT {view}) UNION ALL ({view} EXCEPT {recount})")


def test_a_repeated_insert_counts_once_in_the_table_and_in_every_view(world: World) -> None:
    spec = _counted()
    world.create(spec)
    data_ = body(_events(100))
    for _ in range(3):
        world.insert(spec, data_, token="block-1")
    assert world.count(spec.table.name) == 100
    assert _drift(world) == []
    assert world.client.scalar(f"SELECT sum(n) FROM {world.database}.by_arrival") == 100
    world.insert(spec, data_, token="block-2")
    assert world.count(spec.table.name) == 200


def test_an_insert_without_a_token_is_refused(world: World) -> None:
    spec = make_spec("{name: s, type: string}")
    world.create(spec)
    with pytest.raises(ClickHouseError):
        world.client.insert_body(
            extract.insert_sql(spec, world.database) + " FORMAT ArrowStream",
            body([b"{}"]),
            parameters={"topic_id": TOPIC_ID, "deadline": FOREVER},
            settings=world.settings,
        )
    assert world.count(spec.table.name) == 0


def letters_body(letters: list[tuple[bytes, bytes, bytes, dict[str, bytes]]]) -> bytes:
    """(tw, key, value, other headers) of each letter."""
    many = range(len(letters))
    headers = [[(name, value) for name, value in letter[3].items()] for letter in letters]
    return frame(
        {
            "_partition": pa.array([0 for _ in many], pa.int32()),
            "_offset": pa.array(list(many), pa.int64()),
            "_appended_ms": pa.array([APPENDED_MS for _ in many], pa.int64()),
            "tw": pa.array([letter[0] for letter in letters], pa.binary()),
            "key": pa.array([letter[1] for letter in letters], pa.binary()),
            "raw": pa.array([letter[2] for letter in letters], pa.binary()),
            "headers": pa.array(headers, pa.map_(pa.string(), pa.binary())),
        }
    )


def test_a_letter_keeps_everything_and_is_never_poison(world: World) -> None:
    world.create(make_spec("{name: s, type: string}"))
    failed = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    made = dict(
        letter_headers(
            pipeline="clicks",
            stage="loader",
            failure=Failure("wrong_type", "item_id", "item_id takes an integer"),
            origin=Origin("raw.clicks.v1", "abc", 3, 2**40),
            failed_at=failed,
            version="0.1.0",
            attempt=2,
        )
    )
    every_byte = bytes(range(256))
    broken = {"dlq.partition": b"x", "dlq.failed-at": b"yesterday", "dlq.attempt": b"-1", "other": b"kept"}
    world.insert_letters(
        letters_body(
            [(envelope("e-9"), every_byte, every_byte, made), (b"\xff;;", b"", b"", broken), (b"", b"", b"{}", {})]
        )
    )
    where = f"SELECT * EXCEPT (key, value), hex(key) AS k, hex(value) AS v FROM {world.database}.dead_letters ORDER BY _offset"
    whole, odd, bare = world.client.dicts(where)
    assert (whole["pipeline"], whole["stage"], whole["error"], whole["field"]) == (
        "clicks",
        "loader",
        "wrong_type",
        "item_id",
    )
    assert (whole["origin_topic"], whole["origin_topic_id"]) == ("raw.clicks.v1", "abc")
    assert (whole["origin_partition"], whole["origin_offset"], whole["attempt"]) == (3, 2**40, 2)
    assert whole["failed_at"] == whole["first_failed_at"] == failed
    assert (whole["event_id"], whole["project"], whole["traceparent"]) == ("e-9", "shop", TRACEPARENT)
    assert bytes.fromhex(whole["k"]) == bytes.fromhex(whole["v"]) == every_byte
    assert whole["signature"] == made["dlq.signature"].decode()
    assert (odd["origin_partition"], odd["failed_at"], odd["attempt"]) == (None, None, 0)
    assert odd["headers"]["other"] == "kept"
    assert (bare["pipeline"], bare["received_at"], bare["v"]) == ("", None, b"{}".hex().upper())


@pytest.mark.parametrize("tw", ["x;1700000000000000;9;victim;trace;" + envelope("e-9").decode(), "x;1;9;victim"])
def test_no_part_of_an_envelope_with_other_than_five_parts_is_believed(world: World, tw: str) -> None:
    world.create(make_spec("{name: s, type: string}"))
    world.insert_letters(letters_body([(tw.encode(), b"", b"{}", {})]))
    columns = "event_id, project, received_at, traceparent"
    [letter] = world.client.dicts(f"SELECT {columns} FROM {world.database}.dead_letters")
    assert letter == {"event_id": "", "project": "", "received_at": None, "traceparent": ""}


def test_letters_are_deduplicated_and_refused_when_late(world: World) -> None:
    world.create(make_spec("{name: s, type: string}"))
    some = letters_body([(b"", b"", b"{}", {})] * 3)
    for _ in range(2):
        world.insert_letters(some, token="same")
    assert world.count("dead_letters") == 3
    with pytest.raises(ClickHouseError, match=extract.LATE_MARK):
        world.insert_letters(some, deadline=1)
    assert world.count("dead_letters") == 3
