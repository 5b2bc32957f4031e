"""Bad input of every kind: never a 500, never a lost neighbour, and the fast way never differs from the exact one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_world import APP_EVENT, CLICK, SPECS, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.gateway.problems import Rejection
from ingest.gateway.slices import split
from ingest.gateway.validation import Validator, _key_bytes
from tidewatch.spec import parse

CLICKS, BATCH = "/api/v1/clicks/", "/v1/events/batch"
GOOD = json.dumps(CLICK).encode()
RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

# One element of an array, and the reason for which it is refused.
BAD = {
    b'{"event":NaN}': "invalid_json",
    b'{"event":Infinity}': "invalid_json",
    b'{"event":-Infinity}': "invalid_json",
    b"nul": "invalid_json",
    b"'{}'": "invalid_json",
    b'{"event":01}': "invalid_json",
    b'{"event":"\\x"}': "invalid_json",
    b'{"event":"a\x01b"}': "invalid_json",
    b'{"event" "click"}': "invalid_json",
    GOOD.replace(b"men", b"\xff\xfe"): "invalid_json",
    GOOD.replace(b"men", b"\xed\xa0\x80"): "invalid_json",
    GOOD.replace(b"men", b"\\ud800"): "invalid_json",
    GOOD.replace(b"men", b"\\udc00\\ud800"): "invalid_json",
    GOOD[:-1] + b',"other":"\xc3("}': "invalid_json",
    GOOD[:-1] + b',"other":"\\ud83d"}': "invalid_json",
    b"[" * 1000 + b"]" * 1000: "too_deep",
    GOOD[:-1] + b',"other":' + b'{"a":' * 1000 + b"1" + b"}" * 1000 + b"}": "too_deep",
    GOOD[:-1] + b',"other":' + b"[" * 100 + b"]" * 100 + b"}": "too_deep",
    b"17": "not_an_object",
    b"[]": "not_an_object",
    b'"text"': "not_an_object",
    b"null": "not_an_object",
    b"{}": "missing_field",
    GOOD.replace(b'"item_id": 7', b'"item_id": null'): "missing_field",
    GOOD.replace(b'"item_id": 7', b'"item_id": 4294967296'): "out_of_range",
    GOOD.replace(b'"item_id": 7', b'"item_id": -1'): "out_of_range",
    GOOD.replace(b'"item_id": 7', b'"item_id": ' + b"9" * 30): "out_of_range",
    GOOD.replace(b'"item_id": 7', b'"item_id": ' + b"9" * 5000): "out_of_range",
    GOOD.replace(b'"item_id": 7', b'"item_id": 7.0'): "wrong_type",
    GOOD.replace(b'"item_id": 7', b'"item_id": 7e0'): "wrong_type",
    GOOD.replace(b'"item_id": 7', b'"item_id": true'): "wrong_type",
    GOOD.replace(b'"item_id": 7', b'"item_id": "7"'): "wrong_type",
    GOOD.replace(b"0.25", b"1e400"): "out_of_range",
    GOOD.replace(b"0.25", b"1.5"): "out_of_range",
    GOOD.replace(b"0.25", b'"0.25"'): "wrong_type",
    GOOD[:-1] + b',"other":1e400}': "out_of_range",
    GOOD[:-1] + b',"item_id":7}': "duplicate_key",
    GOOD[:-1] + b',"item_id" :7}': "duplicate_key",
    GOOD[:-1] + b',"item\\u005fid"\n:7}': "duplicate_key",
    GOOD[:-1] + b',"other":1,"other":2}': "duplicate_key",
    GOOD[:-1] + b',"other":{"a":1,"a":1}}': "duplicate_key",
    GOOD[:-1] + b',"other":"\\":","item_id":7}': "duplicate_key",
    GOOD[:-1] + b',"":1,"":2}': "duplicate_key",
    GOOD[:-1] + b',"_project":"x"}': "reserved_field",
    GOOD[:-1] + b',"\\u005fproject":"x"}': "reserved_field",
    GOOD[:-1] + b',"_":1}': "reserved_field",
    GOOD.replace(b"men", b"m" * 65): "too_long",
    GOOD.replace(b'"click"', b'"klick"'): "not_allowed",
    GOOD.replace(b"+01:00", b""): "bad_format",
    GOOD.replace(b"2026-01-31T", b"2026-02-30T"): "bad_format",
    GOOD.replace(b"2026", b"1899"): "bad_format",
    GOOD.replace(b"2026", b"2300"): "bad_format",
    GOOD.replace(b"2026", b"0000"): "bad_format",
    GOOD.replace(b"12:00:00", b"24:00:00"): "bad_format",
    GOOD.replace(b"12:00:00", b"12:00:60"): "bad_format",
    GOOD.replace(b"+01:00", b"+0100"): "bad_format",
    GOOD.replace(b"+01:00", b"+24:00"): "bad_format",
    GOOD.replace(b".123456", b".1234567891"): "bad_format",
    GOOD.replace(b'"2026-01-31T12:00:00.123456+01:00"', b"1769857200"): "wrong_type",
    GOOD[:-1] + b',"event_id":"a b"}': "bad_event_id",
    GOOD[:-1] + b',"other":"' + b"x" * 600_000 + b'"}': "too_large",
}
# Unusual, and fine.
ODD = [
    GOOD[:-1] + b',"other":null,"more":[1,{"a":[]}],"even":{"deep":{"er":1}}}',
    GOOD[:-1] + b',"big":' + b"9" * 30 + b"}",
    GOOD.replace(b"men", b"\\ud83d\\ude00"),
    GOOD.replace(b"men", "naïve 😀 ﷽".encode()),
    GOOD.replace(b"men", b"\\u0000"),
    GOOD.replace(b"men", b'a\\":b'),
    GOOD.replace(b": ", b" :\t"),
    GOOD.replace(b'"event"', b'"\\u0065vent"'),
    GOOD.replace(b'"u-1"', b"null"),
    GOOD.replace(b"0.25", b"1"),
    GOOD.replace(b"0.25", b"1e-400"),
    GOOD.replace(b"T12:00:00.123456+01:00", b" 12:00:00z"),
    GOOD.replace(b".123456", b".123456789"),
    GOOD[:-1] + b',"event_id":"a/b:c@d=e+f._-1"}',
]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


def sent(world: World) -> list[bytes]:
    values = [record.value for record in world.kafka.records if record.topic != world.settings.gateway.probe_topic]
    world.kafka.records.clear()
    return values


@pytest.mark.parametrize("bad", BAD, ids=lambda raw: repr(raw[-40:]))
@pytest.mark.parametrize("place", [0, 1, 30])
def test_a_bad_event_is_named_and_its_neighbours_are_taken(world: World, bad: bytes, place: int) -> None:
    sent(world)
    events = [GOOD] * 30
    events.insert(place, bad)
    answer = world.post(CLICKS, b"[" + b",".join(events) + b"]")
    assert answer.status == 202
    results = answer.json["results"]
    assert [r["status"] for r in results].count("accepted") == 30
    assert results[place]["status"] == "rejected"
    assert results[place]["reason"] == BAD[bad]
    assert sent(world) == [GOOD] * 30


@pytest.mark.parametrize("bad", BAD, ids=lambda raw: repr(raw[-40:]))
def test_a_bad_event_alone(world: World, bad: bytes) -> None:
    answer = world.post("/v1/events" if bad[:1] == b"[" else CLICKS, bad)
    assert answer.status in {400, 413, 422}, answer.body
    assert answer.json.get("reason", BAD[bad]) == BAD[bad]


@pytest.mark.parametrize("odd", ODD, ids=lambda raw: repr(raw[-40:]))
def test_odd_events_are_taken_as_they_are(world: World, odd: bytes) -> None:
    sent(world)
    assert world.post(CLICKS, odd).status == 202
    assert world.post(CLICKS, b"[" + GOOD + b" ,\n" + odd + b"]").json["accepted"] == 2
    assert sent(world) == [odd, GOOD, odd]


@RELAXED
@given(body=st.binary(max_size=200), zipped=st.booleans(), chunks=st.integers(1, 4))
def test_any_bytes_are_answered_without_a_500(world: World, body: bytes, zipped: bool, chunks: int) -> None:  # noqa: FBT001
    headers = {"content_encoding": "gzip"} if zipped else {}
    for path in (CLICKS, BATCH, "/v1/events", "/api/v1/orders/"):
        answer = world.post(path, gzip.compress(body) if zipped else body, chunks=chunks, **headers)
        assert answer.status in {202, 400, 422}


@RELAXED
@given(data=st.data())
def test_damaged_batches(world: World, data: st.DataObject) -> None:
    """A few bytes of a good batch changed: what is taken is what stands there, and nothing else is."""
    sent(world)
    body = bytearray(b"[" + b",".join([GOOD] * 5) + b"]")
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    answer = world.post(CLICKS, bytes(body))
    assert answer.status in {202, 400, 422}
    values = sent(world)
    if answer.status != 202:
        assert not values
        return
    results = answer.json["results"]
    assert len(values) == sum(r["status"] == "accepted" for r in results)
    assert len(results) == len(split(bytes(body)))
    for value in values:
        assert value in bytes(body)
        assert isinstance(json.loads(value), dict)


@RELAXED
@given(cut=st.integers(0, len(GOOD) * 3 + 3))
def test_truncated_batches_are_refused_as_a_whole(world: World, cut: int) -> None:
    sent(world)
    body = b"[" + b",".join([GOOD] * 3) + b"]"
    assert world.post(CLICKS, body[:cut]).status == 400
    assert not sent(world)


EVERY_TYPE = parse(
    """
name: everything
description: A field of each type.
owner: test
source: {path: /everything, unknown_fields: keep}
topic: {name: everything, partitions: 1, key: number}
dead_letters: {topic: everything.dlq}
schema:
  fields:
    - {name: text, type: string, required: true, max_length: 5}
    - {name: choice, type: string, values: [a, b], max_length: 3}
    - {name: code, type: string, pattern: '[a-z]+\\d'}
    - {name: number, type: int8, min: -100.5}
    - {name: large, type: uint64}
    - {name: signed, type: int64, max: 10}
    - {name: real, type: float64}
    - {name: flag, type: bool}
    - {name: at, type: timestamp, required: true}
    - {name: day, type: date}
    - {name: id, type: uuid}
    - {name: price, type: 'decimal(6,2)', min: -10}
    - {name: more, type: json}
    - {name: words, type: array(string), max_length: 2}
    - {name: counts, type: array(int64)}
    - {name: reals, type: array(float64)}
table: {name: everything}
""",
    "test",
)
UUID_TEXT = "0192f3a4-b5c6-7abc-8def-0123456789ab"
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-130, 130),
    st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**25]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.sampled_from(["a", "b", "abc1", "ab1\n", "1.50", "-0.005", "1e2", "12345.67", " 1", "NaN", UUID_TEXT, "x.y"]),
    st.sampled_from(["2026-01-31", "2026-02-30", "2300-01-01", "20260131", "١٩٠٠-01-01"]),
    st.sampled_from(
        ["2026-01-31T12:00:00Z", "2026-01-31 12:00:00.5+02:00", "2026-1-31T12:00:00Z", "1900-01-01T00:00:00+01:00"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "a.b", "b", "", "_c"]), inner, max_size=3)
    ),
    max_leaves=6,
)
right = {
    "text": "abc",
    "at": "2026-01-31T12:00:00Z",
    "number": 1,
    "price": "1.5",
    "more": {"a": {"b": 1}},
    "words": ["x"],
    "counts": [1, 2],
    "reals": [1.5, 2],
    "day": "2026-01-31",
    "id": UUID_TEXT,
    "code": "ab1",
}
names = st.sampled_from([*(field.name for field in EVERY_TYPE.schema_.fields), "other", "event_id", "_ours"])
events = st.builds(
    lambda base, dropped, changed: {k: v for k, v in base.items() if k not in dropped} | changed,
    st.sampled_from([right, {"text": "abc", "at": "2026-01-31T12:00:00Z"}]),
    st.sets(names, max_size=2),
    st.dictionaries(names, values, max_size=2),
)


def verdict(found: Any) -> Any:
    return found if isinstance(found, Rejection) else (_key_bytes(found.key), found.event_id)


@settings(max_examples=400, deadline=None)
@given(given_events=st.lists(events, min_size=1, max_size=4), spaced=st.booleans())
def test_the_fast_way_agrees_with_the_exact_rules(given_events: list[dict[str, Any]], spaced: bool) -> None:  # noqa: FBT001
    validator = Validator(EVERY_TYPE)
    separators = (" , ", " : ") if spaced else (",", ":")
    raws = [json.dumps(event, separators=separators).encode() for event in given_events]
    exact = [verdict(validator._exactly(raw)) for raw in raws]
    assert [verdict(validator._look_at(raw)) for raw in raws] == exact
    checked = validator.batch(b"[" + b",".join(raws) + b"]")
    for place, expected in enumerate(exact):
        if isinstance(expected, Rejection):
            assert checked.rejections[place] == expected
        else:
            key, event_id = expected
            assert place not in checked.rejections
            assert (checked.keys or [None] * len(raws))[place] == key
            assert (checked.ids or [None] * len(raws))[place] == event_id


def test_all_fields_at_their_best_are_taken_the_fast_way() -> None:
    validator = Validator(EVERY_TYPE)
    best = {k: v for k, v in right.items() if k != "price"} | {"real": 0.5, "flag": True, "large": 2**64 - 1}
    raw = json.dumps([best] * 3).encode()
    assert validator._beyond_doubt(raw, split(raw)) is not None
    raw = json.dumps([APP_EVENT | {"properties": {"a": {"b": [1]}}}, APP_EVENT | {"unknown": 1}]).encode()
    assert Validator(SPECS["app_events"])._beyond_doubt(raw, split(raw)) is not None


@pytest.mark.parametrize("raw", [b"[", b"[1", b"[1,]", b"[,1]", b"[1}", b"[{]", b"[1]2", b'["', b"", b"x"])
def test_arrays_without_an_end_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="array"):
        split(raw)


@given(st.lists(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)), min_size=1))
def test_slices_are_the_elements(elements: list[Any]) -> None:
    raws = [json.dumps(element).encode() for element in elements]
    assert split(b"[" + b",".join(raws) + b"]") == raws
    assert split(b" [ " + b" ,\n".join([*raws, b"NaN"]) + b" ] ") == [*raws, b"NaN"]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_key_hides_behind_another(data: st.DataObject) -> None:
    """However the second one is spelt, and whatever its value is."""
    base = data.draw(
        st.sampled_from([right, right | {"event_id": "mine", "other": 1}, {"text": "a", "at": right["at"]}])
    )
    key = data.draw(st.sampled_from(list(base)))
    spelt = data.draw(st.sampled_from([key, f"\\u{ord(key[0]):04x}{key[1:]}"]))
    gap = data.draw(st.sampled_from(["", " ", "\n\t"]))
    value = data.draw(st.sampled_from([json.dumps(base[key]), "null", "1", '"x"', "{}", '{"a":{"b":1}}', "[]", '""']))
    raw = json.dumps(base)[:-1].encode() + f',"{spelt}"{gap}:{gap}{value}}}'.encode()
    found = Validator(EVERY_TYPE).batch(b"[" + GOOD_FOR_ALL + b"," + raw + b"]").rejections
    assert found[1].reason == "duplicate_key"
    assert found[1].field == key
    assert 0 not in found


GOOD_FOR_ALL = json.dumps(right).encode()
