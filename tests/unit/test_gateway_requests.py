"""What the gateway answers, request by request."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError
from gateway_world import APP_EVENT, CLICK, ORDER, FakeKafka, World

from tidewatch.contracts import Limit
from tidewatch.record import Letter

CLICKS, EVENTS, BATCH, ORDERS = "/api/v1/clicks/", "/v1/events", "/v1/events/batch", "/api/v1/orders/"


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


def problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json
    assert body["type"] == f"urn:tidewatch:problem:{kind}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["fix"]
    return body


def test_an_event_goes_to_kafka_byte_for_byte(world: World) -> None:
    raw = b' {"event" : "click","occurred_at":"2026-01-31T12:00:00Z",\n"item_id":7,"position":3,"campaign":"\\u00e9"} '
    answer = world.post(CLICKS, raw)
    assert answer.status == 202
    event_id = answer.json["event_id"]
    assert uuid.UUID(event_id).version == 7
    [record] = world.kafka.of("raw.clicks.v1")
    assert record.value == raw
    assert record.key is None
    assert record.envelope.event_id == event_id
    assert record.envelope.project == "shop"
    assert record.envelope.schema_version == 1
    assert record.envelope.traceparent.endswith("-00")
    assert [name for name, _ in record.headers] == ["tw"]


def test_the_path_serves_without_its_last_slash_too(world: World) -> None:
    assert world.post("/api/v1/clicks", CLICK).status == 202


def test_a_batch_has_a_result_for_each_event_in_order(world: World) -> None:
    events = [CLICK, CLICK | {"position": 0}, CLICK | {"event_id": "mine:1"}, {"event": "click"}, 5]
    answer = world.post(CLICKS, events)
    assert answer.status == 202
    body = answer.json
    assert (body["accepted"], body["rejected"], body["dead_lettered"]) == (2, 3, 0)
    assert [r["status"] for r in body["results"]] == ["accepted", "rejected", "accepted", "rejected", "rejected"]
    assert body["results"][1] == {
        "status": "rejected",
        "field": "position",
        "reason": "out_of_range",
        "message": "position is at least 1; it got an integer",
    }
    assert body["results"][2]["event_id"] == "mine:1"
    assert body["results"][4]["reason"] == "not_an_object"
    sent = world.kafka.of("raw.clicks.v1")
    assert [json.loads(record.value) for record in sent] == [events[0], events[2]]
    assert [record.envelope.event_id for record in sent] == [body["results"][0]["event_id"], "mine:1"]


def test_a_batch_without_trouble(world: World) -> None:
    answer = world.post(CLICKS, [CLICK] * 3)
    body = answer.json
    assert (answer.status, body["accepted"], body["rejected"], body["dead_lettered"]) == (202, 3, 0, 0)
    ids = [result["event_id"] for result in body["results"]]
    assert len(set(ids)) == 3
    assert ids == sorted(ids)
    assert [r.envelope.event_id for r in world.kafka.of("raw.clicks.v1")] == ids


def test_all_of_a_batch_rejected_is_a_422_with_every_result(world: World) -> None:
    body = problem(world.post(CLICKS, [{}, {"event": 5}]), 422, "all-rejected")
    assert [result["reason"] for result in body["results"]] == ["missing_field", "wrong_type"]
    assert body["rejected"] == 2


def test_a_single_invalid_event_says_field_and_reason(world: World) -> None:
    body = problem(world.post(CLICKS, CLICK | {"item_id": "7"}), 422, "invalid-event")
    assert (body["field"], body["reason"]) == ("item_id", "wrong_type")
    assert not world.kafka.of("raw.clicks.v1")


def test_invalid_events_become_dead_letters_where_the_spec_says_so(world: World) -> None:
    bad = APP_EVENT | {"user_id": 5}
    answer = world.post(EVENTS, bad)
    assert answer.status == 202
    assert answer.json["status"] == "dead_lettered"
    assert (answer.json["field"], answer.json["reason"]) == ("user_id", "wrong_type")
    [letter] = world.kafka.of("dlq.app_events.v1")
    assert json.loads(letter.value) == bad
    headers = dict(letter.headers)
    assert headers[Letter.STAGE] == b"gateway"
    assert headers[Letter.ERROR] == b"wrong_type"
    assert headers[Letter.FIELD] == b"user_id"
    assert headers[Letter.PIPELINE] == b"app_events"
    assert Letter.OFFSET not in headers
    assert letter.envelope.event_id == answer.json["event_id"]
    assert not world.kafka.of("raw.app_events.v1")


def test_dead_letters_and_events_of_one_batch(world: World) -> None:
    body = world.post(BATCH, [APP_EVENT, {"app": 1}, [1], APP_EVENT]).json
    assert [r["status"] for r in body["results"]] == ["accepted", "dead_lettered", "rejected", "accepted"]
    assert (body["accepted"], body["dead_lettered"], body["rejected"]) == (2, 1, 1)
    assert len(world.kafka.of("raw.app_events.v1")) == 2
    assert len(world.kafka.of("dlq.app_events.v1")) == 1


def test_records_are_keyed_by_the_field_of_the_spec(world: World) -> None:
    world.post(BATCH, [APP_EVENT | {"user_id": "é"}, APP_EVENT])
    assert [record.key for record in world.kafka.of("raw.app_events.v1")] == ["é".encode(), b"u-1"]


def test_an_idempotency_key_is_the_event_id(world: World) -> None:
    answer = world.post(CLICKS, CLICK, idempotency_key="order/17=a")
    assert answer.json == {"event_id": "order/17=a"}
    assert world.kafka.of("raw.clicks.v1")[0].envelope.event_id == "order/17=a"


@pytest.mark.parametrize(
    ("event", "header"),
    [
        (CLICK | {"event_id": "a b"}, None),
        (CLICK | {"event_id": ""}, None),
        (CLICK | {"event_id": 5}, None),
        (CLICK | {"event_id": None}, None),
        (CLICK | {"event_id": "x" * 129}, None),
        (CLICK | {"event_id": "semi;colon"}, None),
        (CLICK | {"event_id": "line\n"}, None),
        (CLICK, "white space"),
        (CLICK, ""),
        (CLICK | {"event_id": "a"}, "b"),
    ],
)
def test_bad_event_ids(world: World, event: dict[str, Any], header: str | None) -> None:
    headers = {} if header is None else {"idempotency_key": header}
    assert problem(world.post(CLICKS, event, **headers), 422, "invalid-event")["reason"] == "bad_event_id"
    assert not world.kafka.of("raw.clicks.v1")


def test_the_same_id_in_both_places_is_fine(world: World) -> None:
    assert world.post(CLICKS, CLICK | {"event_id": "a"}, idempotency_key="a").json == {"event_id": "a"}


def test_an_idempotency_key_cannot_name_a_batch(world: World) -> None:
    problem(world.post(CLICKS, [CLICK], idempotency_key="a"), 400, "idempotency-key-of-a-batch")


def test_keys(world: World) -> None:
    problem(world.post(CLICKS, CLICK, key=None), 401, "unknown-key")
    answer = world.post(CLICKS, CLICK, key="nobody's")
    problem(answer, 401, "unknown-key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert world.post(CLICKS, CLICK, key=None, x_api_key="key").status == 202
    assert world.post(CLICKS, CLICK, key="clicks-key").status == 202
    problem(world.post(EVENTS, APP_EVENT, key="clicks-key"), 403, "pipeline-not-allowed")
    assert world.kafka.of("raw.clicks.v1")[1].envelope.project == "other"


def test_content_types_and_encodings(world: World) -> None:
    for good in ("application/json", "Application/JSON; charset=UTF-8", "application/vnd.shop+json"):
        assert world.post(CLICKS, CLICK, content_type=good).status == 202
    for bad in ("text/plain", "", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "json"):
        problem(world.post(CLICKS, CLICK, content_type=bad), 415, "wrong-content-type")
    problem(world.post(CLICKS, CLICK, content_encoding="br"), 415, "wrong-content-encoding")


def test_gzip(world: World) -> None:
    body = gzip.compress(json.dumps([CLICK] * 100).encode())
    assert world.post(CLICKS, body, content_encoding="gzip").json["accepted"] == 100
    assert world.post(CLICKS, body, content_encoding="gzip", chunks=7).json["accepted"] == 100


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b'{"event": 1}', 400, "bad-gzip"),
        (gzip.compress(b'{"event": 1}')[:-4], 400, "bad-gzip"),
        (gzip.compress(b"{}") + b"more", 400, "bad-gzip"),
        (gzip.compress(b"{}") + gzip.compress(b"{}"), 400, "bad-gzip"),
        (b"", 400, "bad-gzip"),
        (gzip.compress(b" " * 50_000_000), 413, "body-too-large"),
    ],
    ids=["no gzip", "truncated", "trailing", "two members", "empty", "bomb"],
)
def test_lying_gzip(world: World, body: bytes, status: int, kind: str) -> None:
    problem(world.post(CLICKS, body, content_encoding="gzip"), status, kind)


def test_bodies_that_are_too_large(world: World) -> None:
    large = b" " * 1_048_577
    problem(world.post(CLICKS, large), 413, "body-too-large")
    problem(world.post(CLICKS, large, chunks=5), 413, "body-too-large")
    problem(world.post(CLICKS, b"{}", content_length="1048577"), 413, "body-too-large")
    problem(world.post(CLICKS, b"{}", content_length="9" * 5000), 413, "body-too-large")


def test_batches_and_events_that_are_too_large(world: World) -> None:
    problem(world.post(CLICKS, b"[" + b"{}," * 5000 + b"{}]"), 413, "batch-too-large")
    assert world.post(CLICKS, [CLICK | {"extra": "x" * 600_000}, CLICK]).json["results"][0]["reason"] == "too_large"
    problem(world.post(CLICKS, CLICK | {"extra": "x" * 600_000}), 413, "event-too-large")


@pytest.mark.parametrize("body", [b"", b"  ", b"[]", b"[", b"[{}", b"{}", b"17", b"null", b'{"a":', b"[{}]]", b"[{},]"])
def test_malformed_batches(world: World, body: bytes) -> None:
    problem(world.post(BATCH, body), 400, "malformed-body")


def test_an_array_where_one_event_is_taken(world: World) -> None:
    assert BATCH in problem(world.post(EVENTS, [APP_EVENT]), 400, "array-refused")["fix"]
    problem(world.post(ORDERS, [ORDER]), 400, "array-refused")


def test_other_methods_and_routes(world: World) -> None:
    answer = world.run(world.request("PUT", CLICKS, CLICK))
    problem(answer, 405, "wrong-method")
    assert answer.headers["allow"] == "POST"
    problem(world.get("/nowhere"), 404, "no-such-route")


def test_a_project_s_limit_and_its_retry_after() -> None:
    with World(limits=[Limit("events", 10, 60)]) as world:
        assert world.post(CLICKS, [CLICK] * 10, key="limited-key").status == 202
        answer = world.post(CLICKS, CLICK, key="limited-key")
        body = problem(answer, 429, "rate-limited")
        wait = int(answer.headers["retry-after"])
        assert wait - 1 < body["retry_after_seconds"] <= wait
        world.clock.advance(wait - 1)
        assert world.post(CLICKS, CLICK, key="limited-key").status == 429
        world.clock.advance(1)
        assert world.post(CLICKS, CLICK, key="limited-key").status == 202
        assert world.post(CLICKS, CLICK, key="key").status == 202
        never = world.post(CLICKS, [CLICK] * 11, key="limited-key")
        problem(never, 413, "beyond-limit")
        assert "retry-after" not in never.headers


def test_an_address_s_limit_also_meets_those_without_a_key() -> None:
    with World(address_limits="requests=2/1m") as world:
        assert world.post(CLICKS, CLICK, key=None).status == 401
        assert world.post(CLICKS, CLICK).status == 202
        assert world.post(CLICKS, CLICK).status == 429


def test_forwarded_addresses_are_believed_of_trusted_proxies_only() -> None:
    with World(address_limits="requests=1/1m") as world:
        assert world.post(CLICKS, CLICK, x_forwarded_for="198.51.100.1").status == 202
        assert world.post(CLICKS, CLICK, x_forwarded_for="198.51.100.2").status == 429
    with World(address_limits="requests=1/1m", trusted_proxies="192.0.2.0/24") as world:
        assert world.post(CLICKS, CLICK, x_forwarded_for="6.6.6.6, 198.51.100.1").status == 202
        assert world.post(CLICKS, CLICK, x_forwarded_for="7.7.7.7, 198.51.100.1, 192.0.2.9").status == 429
        assert world.post(CLICKS, CLICK, x_forwarded_for="198.51.100.2").status == 202


def test_kafka_fails_for_some_events_of_a_batch(world: World) -> None:
    world.kafka.fails = lambda r: KafkaError(KafkaError._MSG_TIMED_OUT) if b'"position": 2' in r.value else None
    answer = world.post(CLICKS, [CLICK, CLICK | {"position": 2}, CLICK | {"position": 0}])
    body = problem(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert [r["status"] for r in body["results"]] == ["accepted", "unavailable", "rejected"]
    assert body["results"][1]["event_id"]
    assert (body["accepted"], body["unavailable"], body["rejected"]) == (1, 1, 1)


def test_kafka_fails_for_all_events(world: World) -> None:
    world.kafka.fails = lambda _: KafkaError(KafkaError._MSG_TIMED_OUT)
    body = problem(world.post(CLICKS, CLICK), 503, "unavailable")
    assert body["event_id"]
    # From now on requests are refused at once: nothing more is handed over.
    world.kafka.silent = True
    problem(world.post(CLICKS, [CLICK] * 3), 503, "unavailable")
    assert not [record for record, _ in world.kafka.pending if record.topic == "raw.clicks.v1"]
    assert world.metric("tidewatch_gateway_kafka_up") == 0


def test_the_circuit_closes_when_kafka_is_back(world: World) -> None:
    client = world.kafka
    client.fails = lambda _: KafkaError(KafkaError._MSG_TIMED_OUT)
    assert world.post(CLICKS, CLICK).status == 503
    assert world.get("/readyz").status == 503
    client.fails = lambda _: None
    assert world.get("/readyz").status == 200
    assert world.post(CLICKS, CLICK).status == 202


def test_a_full_queue_takes_nothing_or_says_what_it_took() -> None:
    with World(max_waiting_events=10) as world:
        problem(world.post(CLICKS, [CLICK] * 11), 503, "unavailable")
        assert not world.kafka.of("raw.clicks.v1")
        world.kafka.room = 2
        events = [CLICK | {"item_id": n} for n in range(4)]
        statuses = [r["status"] for r in problem(world.post(CLICKS, events), 503, "unavailable")["results"]]
        assert statuses == ["accepted", "accepted", "unavailable", "unavailable"]
        assert len(world.kafka.of("raw.clicks.v1")) == 2


def test_a_fatal_error_replaces_the_producer(world: World) -> None:
    first = world.kafka
    fatal = KafkaError(KafkaError._FATAL, "fenced", fatal=True)
    first.fails = lambda _: fatal
    assert world.post(CLICKS, CLICK).status == 503
    assert world.get("/readyz").status == 200
    assert world.kafka is not first
    assert world.post(CLICKS, CLICK).status == 202
    assert world.kafka.of("raw.clicks.v1")
    assert world.metric("tidewatch_gateway_producers_replaced_total") == 1


def test_orders_are_committed_first_and_answer_with_their_id(world: World) -> None:
    answer = world.post(ORDERS, ORDER)
    assert answer.status == 202
    order_id = answer.json["order_id"]
    project, raw, tw, key = world.outbox.rows[order_id]
    assert (project, json.loads(raw), key) == ("shop", ORDER, b"17850")
    assert tw.startswith(order_id.encode() + b";")
    assert not world.kafka.of("raw.orders.v1")


def test_orders_without_a_store(world: World) -> None:
    world.outbox.away = True
    answer = world.post(ORDERS, ORDER)
    problem(answer, 503, "unavailable")
    assert "retry-after" in answer.headers


def test_an_invalid_order(world: World) -> None:
    assert problem(world.post(ORDERS, ORDER | {"total": 1.555}), 422, "invalid-event")["field"] == "total"
    assert problem(world.post(ORDERS, ORDER | {"note": "x"}), 422, "invalid-event")["reason"] == "unknown_field"
    assert world.post(ORDERS, ORDER | {"event_id": "mine"}).json == {"order_id": "mine"}


def test_what_goes_wrong_in_us_is_a_500_with_a_problem(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(FakeKafka, "produce", explode)
    assert "boom" not in json.dumps(problem(world.post(CLICKS, CLICK), 500, "internal"))
