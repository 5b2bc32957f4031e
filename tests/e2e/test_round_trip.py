"""What the gateway accepted comes back from ClickHouse equal to what was sent; Kafka and dead letters hold its bytes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from devstack.stack import Stack, StackOptions
from ingest.schema.stored import stored_event
from tidewatch.clickhouse import ClickHouse
from tidewatch.kafka.admin import EARLIEST, LATEST, KafkaAdmin, Partition
from tidewatch.kafka.reading import LogReader
from tidewatch.record import ENVELOPE, decode_envelope
from tidewatch.settings import load_settings
from tidewatch.spec import Spec, load_all

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0
INTEGERS = {f"{sign}{bits}": (sign, bits) for sign in "iu" for bits in (8, 16, 32, 64)}
SPEC = """
name: types
description: A field of every type.
owner: tests
source: {kind: http, path: /types/, unknown_fields: keep}
topic: {name: raw.types.v1, partitions: 2, key: s}
dead_letters: {topic: dlq.types.v1}
schema:
  fields:
    - {name: s, type: string}
    - {name: i8, type: int8}
    - {name: i16, type: int16}
    - {name: i32, type: int32}
    - {name: i64, type: int64}
    - {name: u8, type: uint8}
    - {name: u16, type: uint16}
    - {name: u32, type: uint32}
    - {name: u64, type: uint64}
    - {name: f, type: float64}
    - {name: b, type: bool}
    - {name: t, type: timestamp}
    - {name: d, type: date}
    - {name: id, type: uuid}
    - {name: dec, type: "decimal(38,9)"}
    - {name: j, type: json}
    - {name: strs, type: array(string)}
    - {name: ints, type: array(int64)}
    - {name: floats, type: array(float64)}
table: {name: raw_types}
"""

Accepted = dict[str, bytes]
"""Event id → the bytes that were sent."""


class Pipe:
    """The running system, for one pipeline of it."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack = stack
        self._settings = load_settings(stack.environment)
        self.spec: Spec = load_all(self._settings.pipelines)[name]
        self.path = self.spec.source.batch_path or self.spec.source.path

    def post(self, raws: list[bytes]) -> list[dict[str, Any]]:
        """The results for a batch of exactly these bytes, sent compressed."""
        headers = {"X-Api-Key": self._stack.api_key, "Content-Type": "application/json", "Content-Encoding": "gzip"}
        body = gzip.compress(b"[" + b",".join(raws) + b"]", 1)
        response = httpx.post(f"{self._stack.gateway_url}{self.path}", content=body, headers=headers, timeout=60)
        assert response.status_code in {202, 422}, response.text[:2000]
        results: list[dict[str, Any]] = response.json()["results"]
        assert len(results) == len(raws)
        return results

    def accept(self, raws: list[bytes]) -> Accepted:
        """Of a batch in which nothing may be refused."""
        results = self.post(raws)
        assert [
            (result, raw) for result, raw in zip(results, raws, strict=True) if result["status"] != "accepted"
        ] == []
        return {result["event_id"]: raw for result, raw in zip(results, raws, strict=True)}

    def rows(self, accepted: Accepted) -> dict[str, dict[str, Any]]:
        """Event id → row, once all are there."""
        # The typed column is for queries; the record of the document is in its companion.
        nested = ", ".join(field.name for field in self.spec.schema_.fields if field.type == "json")
        query = f"SELECT * EXCEPT ({nested}) FROM {self.spec.table.name} WHERE _event_id IN {{ids:Array(String)}}"
        ids = list(accepted)
        deadline = time.monotonic() + PATIENCE_SECONDS
        with ClickHouse(self._settings.clickhouse) as clickhouse:
            while True:
                parts = [ids[start : start + 500] for start in range(0, len(ids), 500)]
                found = [row for part in parts for row in clickhouse.dicts(query, {"ids": part})]
                if len(found) >= len(ids):
                    break
                assert time.monotonic() < deadline, f"{len(found)} of {len(ids)} rows; {self.letters()}"
                time.sleep(0.2)
        rows = {row["_event_id"]: row for row in found}
        assert len(rows) == len(found) == len(ids)
        return rows

    def letters(self) -> list[tuple[Any, ...]]:
        """(event id, error, field, value in hex) of this pipeline's dead letters."""
        with ClickHouse(self._settings.clickhouse) as clickhouse:
            return clickhouse.query(
                "SELECT event_id, error, field, hex(value) FROM dead_letters WHERE pipeline = {name:String}",
                {"name": self.spec.name},
            )

    def log(self) -> dict[str, tuple[bytes | None, bytes | None]]:
        """Event id → key and value of its record."""
        found = {}
        topic = self.spec.topic.name
        with KafkaAdmin(self._settings.kafka) as admin, LogReader(self._settings.kafka) as reader:
            partitions = [Partition(topic, number) for number in range(self.spec.topic.partitions)]
            starts, ends = admin.offsets(partitions, EARLIEST), admin.offsets(partitions, LATEST)
            for where in partitions:
                for message in reader.read(topic, where.partition, starts[where], ends[where]):
                    header = dict(message.headers() or [])[ENVELOPE]
                    assert isinstance(header, bytes)
                    key, value = message.key(), message.value()
                    assert isinstance(key, bytes | None)
                    assert isinstance(value, bytes)
                    found[decode_envelope(header).event_id] = (key, value)
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("round-trip")
    pipelines = home / "pipelines"
    pipelines.mkdir()
    (pipelines / "types.yaml").write_text(SPEC, encoding="utf-8")
    shutil.copy(ROOT / "pipelines" / "app_events.yaml", pipelines)
    with Stack(StackOptions(home / "stack", prometheus=False, pipelines=pipelines)) as stack:
        yield stack


@pytest.fixture(scope="module")
def types(stack: Stack) -> Pipe:
    return Pipe(stack, "types")


@pytest.fixture(scope="module")
def app_events(stack: Stack) -> Pipe:
    return Pipe(stack, "app_events")


# -- what is sent, and what is to come back


def integers(sign: str, bits: int) -> st.SearchStrategy[int]:
    low, high = (0, 2**bits - 1) if sign == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.integers(low, high) | st.sampled_from([low, high, 0])


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INSTANTS = st.datetimes(datetime(1900, 1, 2), datetime(2299, 12, 30)).map(lambda naive: naive.replace(tzinfo=UTC))  # noqa: DTZ001
OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def timestamps(draw: st.DrawFn) -> str:
    there = draw(INSTANTS).astimezone(draw(OFFSETS))
    text = there.isoformat(draw(st.sampled_from("Tt ")), timespec="microseconds")
    return draw(st.sampled_from([text, text.replace("+00:00", "Z"), text.replace("+00:00", "z")]))


KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "s": TEXTS,
    **{name: integers(*size) for name, size in INTEGERS.items()},
    "f": FLOATS | st.integers(-(2**63) + 1, 2**63 - 1),
    "b": st.booleans(),
    "t": timestamps(),
    "d": st.dates(date(1900, 1, 1), date(2299, 12, 31)).map(str),
    "id": st.uuids().map(str) | st.uuids().map(lambda found: str(found).upper()),
    "dec": st.decimals(-(10**28), 10**28, places=9, allow_nan=False).map(lambda d: f"{d:f}") | st.integers(-9999, 9999),
    "j": st.dictionaries(TEXTS, JSON, max_size=3),
    "strs": st.lists(TEXTS, max_size=3),
    "ints": st.lists(integers("i", 64), max_size=3),
    "floats": st.lists(FLOATS, max_size=3),
}
UNKNOWN = st.dictionaries(
    TEXTS.filter(lambda key: not key.startswith("_") and key not in {*KNOWN, "event_id"}), JSON, max_size=2
)
EVENTS = st.tuples(
    st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in KNOWN.items()}), UNKNOWN
).map(lambda parts: parts[0] | parts[1])
SPELLINGS = st.fixed_dictionaries(
    {"ensure_ascii": st.booleans(), "separators": st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")])}
)
MEANING = {
    "t": lambda text: datetime.fromisoformat(text.upper()).astimezone(UTC),
    "d": date.fromisoformat,
    "id": UUID,
    "dec": Decimal,
    "f": float,
    "floats": lambda values: list(map(float, values)),
}


def meant(event: dict[str, Any]) -> dict[str, Any]:
    """The event in Python's values. An explicit null of a known field is an absent one."""
    return {
        name: MEANING.get(name, lambda same: same)(value)
        for name, value in event.items()
        if not (name in KNOWN and value is None)
    }


def same(found: Any, sent: Any) -> bool:
    """Equal, with the types of JSON; a float inside JSON may come back as the integer that reads as the same double."""
    if isinstance(sent, dict):
        return isinstance(found, dict) and found.keys() == sent.keys() and all(same(found[k], sent[k]) for k in sent)
    if isinstance(sent, list):
        return isinstance(found, list) and len(found) == len(sent) and all(map(same, found, sent))
    if isinstance(sent, float) and type(found) is int:
        return float(found) == sent
    return type(found) is type(sent) and bool(found == sent)


def assert_back(pipe: Pipe, accepted: Accepted, events: dict[str, dict[str, Any]] | None = None) -> None:
    """Each as it was meant; `events` where JSON's own values do not say that."""
    rows = pipe.rows(accepted)
    for event_id, raw in accepted.items():
        sent = events[event_id] if events is not None else meant(json.loads(raw))
        found = stored_event(pipe.spec, rows[event_id])
        assert same(found, sent), f"{raw!r}\ncame back as {found!r}\ninstead of   {sent!r}"


@pytest.mark.timeout(600)
def test_generated_events_of_all_types(types: Pipe) -> None:
    accepted: Accepted = {}
    refused: list[tuple[str, bytes]] = []
    phases = [Phase.explicit, Phase.generate]

    @settings(max_examples=40, deadline=None, phases=phases, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.tuples(EVENTS, SPELLINGS), min_size=10, max_size=60))
    def send(documents: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        raws = [json.dumps(event, **spelling).encode() for event, spelling in documents]
        for result, raw in zip(types.post(raws), raws, strict=True):
            if result["status"] == "accepted":
                accepted[result["event_id"]] = raw
            else:
                refused.append((result["reason"], raw))

    send()
    # Only a document in which a path stands twice is refused: `{"a.b": 1, "a": {"b": 2}}`.
    assert [(why, raw) for why, raw in refused if why != "bad_format" or b'"j"' not in raw] == []
    assert len(accepted) > 250 > len(refused)
    assert_back(types, accepted)
    log = types.log()
    assert {event_id: log[event_id][1] for event_id in accepted} == accepted
    keys = {event_id: log[event_id][0] for event_id in accepted}
    sent = {event_id: json.loads(raw).get("s") for event_id, raw in accepted.items()}
    assert keys == {event_id: None if s is None else s.encode() for event_id, s in sent.items()}


def test_spellings_that_mean_the_same_and_what_they_come_back_as(types: Pipe) -> None:
    """The few that docs/validation.md says are not kept to the letter, and those that are kept to the byte."""
    spelt: list[tuple[bytes, dict[str, Any]]] = [
        (b'{"t":"2026-08-01T00:00:00.123456789+05:30"}', {"t": datetime(2026, 7, 31, 18, 30, 0, 123456, tzinfo=UTC)}),
        (b'{"id":"61F0C404-5CB3-11E7-907B-A6006AD3DBA0"}', {"id": UUID("61f0c404-5cb3-11e7-907b-a6006ad3dba0")}),
        (b'{"dec":"1.500"}', {"dec": Decimal("1.5")}),
        (b'{"dec":1.25e2}', {"dec": Decimal(125)}),
        (b'{"f":3.6893488147419103232E19,"floats":[7,1e1]}', {"f": 2.0**65, "floats": [7.0, 10.0]}),
        (b'{"j":{"a.b":1,"c":null,"d":{},"e":[],"f":[true,1]}}', {"j": {"a.b": 1, "c": None, "d": {}, "e": [], "f": [True, 1]}}),
        (b'{"s":null,"strs":[]}', {"strs": []}),
        (b'{ "s" : "\\u00e9\\/\\u0000" }', {"s": "é/\x00"}),
        (b'{"j":{"big":123456789012345678901234567890},"other":[18446744073709551616]}', {"j": {"big": 123456789012345678901234567890}, "other": [2**64]}),
    ]  # fmt: skip
    raws = [raw for raw, _ in spelt]
    accepted = types.accept(raws)
    assert list(accepted.values()) == raws
    assert_back(types, accepted, dict(zip(accepted, [event for _, event in spelt], strict=True)))
    rows = list(types.rows(accepted).values())
    kept = {row["_raw"] for row in rows if row["_raw"]}
    assert kept == {raws[-1].decode()}, "an integer beyond 64 bits keeps the whole event, and nothing else does"


def data(path: str) -> Path:
    root = os.environ.get("TIDEWATCH_DATA")
    if not root or not (Path(root) / path).exists():
        pytest.skip(f"TIDEWATCH_DATA has no {path}")
    return Path(root) / path


def naughty_strings() -> list[str]:
    files = sorted(data("dirty/naughty_strings").glob("*.json"))
    return [text for file in files for text in json.loads(file.read_text(encoding="utf-8"))]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "in utf-8"])
def test_naughty_strings(types: Pipe, ascii_only: bool) -> None:  # noqa: FBT001
    """In every place that a string can be in, names of keys among them."""
    texts = naughty_strings()
    assert len(texts) > 400
    events = [{"s": text, "j": {"k": text, text: 1}, "strs": [text, text], "other": {text: text}} for text in texts]
    raws = [json.dumps(event, ensure_ascii=ascii_only).encode() for event in events]
    accepted = types.accept(raws)
    assert_back(types, accepted)
    log = types.log()
    assert {event_id: log[event_id][1] for event_id in accepted} == accepted


def github() -> list[dict[str, Any]]:
    (path,) = data("app_events").glob("gharchive*")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [
            {
                "event": item["type"],
                "occurred_at": item["created_at_timestamp"] if "created_at_timestamp" in item else item["created_at"],
                "user_id": str(item["actor"]["id"]) if isinstance(item["actor"], dict) else str(item["actor"]),
                "app": "github",
                "properties": item,
            }
            for item in map(json.loads, lines)
        ]


@pytest.mark.timeout(600)
def test_githubs_timeline(app_events: Pipe) -> None:
    events = github()
    assert len(events) > 100
    accepted: Accepted = {}
    for start in range(0, len(events), 50):
        accepted |= app_events.accept([json.dumps(event).encode() for event in events[start : start + 50]])
    rows = app_events.rows(accepted)
    for event_id, raw in accepted.items():
        sent = json.loads(raw)
        found = stored_event(app_events.spec, rows[event_id])
        assert found["properties"] == sent["properties"]
        assert {**found, "occurred_at": None} == {**sent, "occurred_at": None}


def test_what_became_a_dead_letter_is_there_to_the_byte(app_events: Pipe) -> None:
    """A batch of good and bad ones: the good are rows, the bad are letters with their reason."""
    good = [
        b'{"event":"e","occurred_at":"2026-01-31T12:00:00Z","user_id":"u","app":"a", "n" : %d}' % n for n in range(5)
    ]
    bad = [
        (b'{ "event":"e","occurred_at":"2026-01-31T12:00:00Z","user_id":"\xc3\xa9","app":7 }', "wrong_type", "app"),
        (b'{"event":"\\u0000","occurred_at":"yesterday","user_id":"u","app":"a"}', "bad_format", "occurred_at"),
        (b'{"event":"e","occurred_at":"2026-01-31T12:00:00Z","app":"a"}', "missing_field", "user_id"),
    ]
    raws = [raw for pair in zip(good, [raw for raw, *_ in bad], strict=False) for raw in pair] + good[len(bad) :]
    results = app_events.post(raws)
    by_status = {
        status: {r["event_id"]: raw for r, raw in zip(results, raws, strict=True) if r["status"] == status}
        for status in ("accepted", "dead_lettered")
    }
    assert sorted(by_status["accepted"].values()) == sorted(good)
    assert list(app_events.rows(by_status["accepted"])) != []
    wanted = {(raw.hex().upper(), error, field) for raw, error, field in bad}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(found := [letter for letter in app_events.letters() if letter[0] in by_status["dead_lettered"]]) < len(
        bad
    ):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert {(value, error, field) for _, error, field, value in found} == wanted
