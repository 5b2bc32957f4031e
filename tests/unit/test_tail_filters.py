"""What `tidewatch tail` selects and how it shows it, without a broker."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.cli.tail import as_line, as_object, printable
from tidewatch.errors import UsageError
from tidewatch.kafka.tail import Edge, Record, parse_filter, parse_start
from tidewatch.record import Envelope

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
EVENT = {
    "event": "purchase",
    "price": 3.0,
    "count": 12345678901234567890,
    "paid": True,
    "coupon": None,
    "user": {"email": "ann@example.org"},
    "items": [{"sku": "a"}, {"sku": "b"}],
}


def record(value: bytes | None = json.dumps(EVENT).encode(), **over: object) -> Record:
    return Record(**{"topic": "t", "partition": 1, "offset": 7, "time": NOW, "key": None, "value": value, **over})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("event=purchase", True),
        ("event = purchase", True),
        ("event=refund", False),
        ("event!=refund", True),
        ("price=3", True),
        ("price=3.00", True),
        ("price=three", False),
        ("count=12345678901234567890", True),
        ("paid=true", True),
        ("paid=1", False),
        ("coupon=null", True),
        ("user.email~@example[.]org$", True),
        ("user.email~^bob", False),
        ('user={"email":"ann@example.org"}', True),
        ("items.sku=b", True),
        ("items.sku=c", False),
        ("items.sku!=b", False),
        ("nothing=x", False),
        ("nothing!=x", True),
        ("nothing~.*", False),
        ("event.deeper=x", False),
        ("event=", False),
    ],
)
def test_a_condition_holds_or_does_not(condition: str, *, holds: bool) -> None:
    assert record().matches([parse_filter(condition)], key=None) is holds


def test_all_conditions_and_the_key_must_hold() -> None:
    yes, no = parse_filter("paid=true"), parse_filter("paid=false")
    assert record(key=b"k").matches([yes], key="k")
    assert not record(key=b"k").matches([yes, no], key="k")
    assert not record(key=b"k").matches([yes], key="other")
    assert not record(key=None).matches([], key="k")


@pytest.mark.parametrize("value", [None, b"", b"not json", b"[1]", b"\xff", b'{"event":NaN}', b"[" * 5000])
def test_what_is_no_object_matches_no_equality_and_breaks_nothing(value: bytes | None) -> None:
    assert not record(value).matches([parse_filter("event=purchase")], key=None)
    json.dumps(as_object(record(value)), allow_nan=False)
    as_line(record(value))


@pytest.mark.parametrize("text", ["event", "=x", "", "user.email~["])
def test_a_wrong_condition_says_how_to_write_one(text: str) -> None:
    with pytest.raises(UsageError, match="Fix: write"):
        parse_filter(text)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("beginning", Edge.BEGINNING),
        ("end", Edge.END),
        ("10m", NOW - timedelta(minutes=10)),
        ("2h", NOW - timedelta(hours=2)),
        ("1234", 1234),
        ("2026-01-01T14:00:00Z", datetime(2026, 1, 1, 14, tzinfo=UTC)),
        ("2026-01-01T14:00:00+02:00", datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ("2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_places_to_start(text: str, start: object) -> None:
    assert parse_start(text, NOW) == start


@pytest.mark.parametrize("text", ["yesterday", "-5", "10 m", "", "999999999d"])
def test_a_wrong_place_says_which_there_are(text: str) -> None:
    with pytest.raises(UsageError, match="for example 10m"):
        parse_start(text, NOW)


def test_json_output_holds_the_event_its_place_and_its_origin() -> None:
    header = Envelope("e-1", 1_000_000, 2, "shop", "00-" + "1" * 32 + "-" + "2" * 16 + "-00").encode()
    shown = as_object(record(headers={"tw": header}, key=b"k"))
    assert {name: shown[name] for name in ("topic", "partition", "offset", "time", "key")} == {
        "topic": "t",
        "partition": 1,
        "offset": 7,
        "time": "2026-05-01T12:00:00.000000Z",
        "key": "k",
    }
    assert (shown["project"], shown["event_id"], shown["schema_version"]) == ("shop", "e-1", 2)
    assert shown["value"] == EVENT


def test_lines_name_foreign_records_letters_and_tombstones() -> None:
    assert "1:7 foreign" in as_line(record()).plain
    assert as_line(record(None)).plain.endswith("tombstone")
    letter = record(headers={"dlq.error": b"missing_field", "dlq.field": b"user_id"})
    assert "✗ missing_field user_id" in as_line(letter).plain


def test_nothing_that_a_client_sent_is_a_command_to_the_terminal() -> None:
    assert printable(b"\x1b[2Jx\ny\x9b") == "\\x1b[2Jx\\x0ay�"
    assert "\x1b" not in as_line(record(b'{"a":"\x1b[31m"}', key=b"\x1b]0;owned\x07")).plain
    assert printable(b"x" * 1500).endswith("… (+500)")
