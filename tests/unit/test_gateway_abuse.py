"""What a hostile or broken client does, and what it must not cost or forge."""

from __future__ import annotations

import asyncio
import json
import re
import tracemalloc
from typing import Any

import pytest
from gateway_world import APP_EVENT, SPECS, World
from hypothesis import given
from hypothesis import strategies as st

from ingest.gateway import rules, slices
from ingest.gateway.body import BodyReader
from ingest.gateway.parsing import parse
from ingest.gateway.problems import ProblemError, Rejection
from ingest.gateway.sending import Stamp
from ingest.gateway.slices import split
from ingest.gateway.validation import Validator
from tidewatch.record import EVENT_ID, Envelope
from tidewatch.spec import parse as parse_spec
from tidewatch.telemetry.traces import TraceContext

CLICKS, APP_EVENTS = "/api/v1/clicks/", "/v1/events"
MIB = 1024 * 1024
FORGED = "x;1700000000000000;9;victim;00-11111111111111111111111111111111-2222222222222222-01"


@pytest.mark.parametrize("end", [b"", b"\\", b'\\"'])
def test_a_string_without_an_end_is_read_once(end: bytes) -> None:
    # When each escaped quote begins another search for the end, this takes hours.
    body = b'[{"a":"' + b'\\"' * (MIB // 2 - 8) + end
    with pytest.raises(ValueError, match="does not end"):
        split(body)
    assert sum(1 for _ in slices._TOKEN.finditer(body)) <= 5


@given(st.lists(st.sampled_from([b'"', b"\\", b"\n", b"[", b"}", b",", b"a"]), max_size=40).map(b"".join))
def test_tokens_are_those_of_the_plain_expression(body: bytes) -> None:
    plain = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
    kept = [token for token in plain.findall(body) if token[:1] != b'"']
    assert [token for token in slices._TOKEN.findall(body) if token[:1] != b'"'] == kept


def test_long_paths_in_a_json_field_take_no_more_room_than_their_bytes() -> None:
    """A long key over many short ones: paths put together from text would take the product of both."""
    inner = {f"k.{n}": 1 for n in range(4000)}
    tracemalloc.start()
    assert not rules.has_shared_path({"x" * 30_000: inner})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * MIB


@pytest.mark.parametrize("depth", [600, 900, 2000])
def test_too_large_a_number_too_deep_is_refused(depth: int) -> None:
    found = parse(b'{"a":' * depth + b"1e400" + b"}" * depth)
    assert isinstance(found, Rejection)
    assert found.reason == "too_deep"


def test_shared_paths() -> None:
    assert rules.has_shared_path({"a": {"b.c": 1}, "a.b": {"c": 2}})
    assert rules.has_shared_path({"a.b": 1, "a": {"b": {}}})
    assert not rules.has_shared_path({"a.": 1, "a": {"b": 1}, "": {"": 1}})


def test_a_refused_idempotency_key_is_no_event_id() -> None:
    with World() as world:
        answer = world.post(APP_EVENTS, APP_EVENT, idempotency_key=FORGED)
        assert answer.json["status"] == "dead_lettered"
        [letter] = world.kafka.of(SPECS["app_events"].dead_letters.topic)
        assert letter.envelope.project == "shop"
        assert EVENT_ID.fullmatch(letter.envelope.event_id)
        assert letter.envelope.event_id == answer.json["event_id"]


def test_an_envelope_is_never_made_of_an_id_that_would_break_it() -> None:
    stamp = Stamp(SPECS["clicks"], "shop", TraceContext(1, 1, sampled=False))
    with pytest.raises(ValueError, match="event id"):
        stamp.headers([b"fine", FORGED.encode()])
    with pytest.raises(ValueError, match="event id"):
        Envelope(FORGED, 1, 1, "shop", "").encode()
    with pytest.raises(ValueError, match="project"):
        Envelope("fine", 1, 1, "shop;x", "").encode()


def test_events_are_counted_before_they_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    with World() as world:
        judged: list[int] = []
        validator = type(world.app._event_routes[CLICKS.rstrip("/")]._validator)
        monkeypatch.setattr(validator, "batch", lambda *_: judged.append(1))
        answer = world.post(CLICKS, b"[" + b"1," * 500_000 + b"1]")
        assert (answer.status, answer.json["type"].rpartition(":")[2]) == (413, "batch-too-large")
        assert "500001" in answer.json["detail"]
        assert not judged


@pytest.mark.parametrize(
    ("path", "body", "header", "reason", "count"),
    [
        (CLICKS, b"[1,2,3]", {"idempotency_key": "a"}, "idempotency_key_of_a_batch", 3),
        (CLICKS, b"[" + b"1," * 5000 + b"1]", {}, "batch_too_large", 5001),
        ("/api/v1/orders/", b"[{},{}]", {}, "array_refused", 2),
    ],
)
def test_events_of_a_request_that_is_refused_whole_are_accounted_for(
    path: str, body: bytes, header: dict[str, Any], reason: str, count: int
) -> None:
    with World() as world:
        assert world.post(path, body, **header).status in {400, 413}
        world.app.services.accounting.publish()
        pipeline = "orders" if "orders" in path else "clicks"
        labels = {"pipeline": pipeline, "project": "shop", "outcome": "rejected", "field": "", "reason": reason}
        assert world.metric("tidewatch_gateway_rejected_events_total", **labels) == count


def test_an_empty_batch_is_no_event() -> None:
    with World() as world:
        assert world.post(CLICKS, b"[]").status == 400
        world.run(world.app.services.accounting.flush())
        assert not world.kafka.of("tidewatch.accounting.v1")


def test_a_body_of_which_nothing_comes_is_given_up() -> None:
    async def read() -> None:
        async with asyncio.timeout(30):
            await BodyReader(1000, 0.01).read({b"content-type": b"application/json"}, never)

    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(ProblemError) as problem:
        asyncio.run(read())
    assert problem.value.status == 408


def test_an_event_that_kafka_could_never_take_with_its_key_is_refused_for_good() -> None:
    validator = Validator(KEYED)
    for size, reason in ((100_000, None), (380_000, None), (400_000, "too_large")):
        raw = json.dumps({"text": "x" * size}).encode()
        for checked in (validator.single(raw), validator.batch(b"[" + raw + b"]")):
            found = checked.rejections.get(0)
            assert (found.reason if found else None) == reason
            assert reason is not None or checked.keys == [b"x" * size]


KEYED = parse_spec(
    """
name: keyed
description: A key as long as the event.
owner: test
source: {path: /keyed}
topic: {name: keyed, partitions: 1, key: text}
dead_letters: {topic: keyed.dlq}
schema:
  fields:
    - {name: text, type: string, required: true}
table: {name: keyed}
""",
    "keyed.yaml",
)
