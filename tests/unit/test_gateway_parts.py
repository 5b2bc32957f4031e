"""Event ids, keys, tracing, accounting, OpenAPI and CORS."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from confluent_kafka import KafkaError
from gateway_world import APP_EVENT, CLICK, ORDER, SPECS, Record, World
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from typer.testing import CliRunner

from controlplane.cli import key as command
from ingest.gateway import keys
from ingest.gateway.ids import EventIds
from ingest.gateway.openapi import example
from ingest.gateway.validation import Validator
from tidewatch.errors import SettingsError, UsageError
from tidewatch.record import decode_envelope

CLICKS = "/api/v1/clicks/"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@given(st.lists(st.tuples(st.integers(1_700_000_000_000, 1_700_000_000_003), st.integers(0, 5)), max_size=60))
def test_ids_rise_whatever_the_clock_does(requests: list[tuple[int, int]]) -> None:
    clock = iter([time for time, _ in requests])
    ids = EventIds(lambda: next(clock), Random(1))
    made = [event_id for _, count in requests for event_id in (ids.batch(count) if count else [ids.one()])]
    assert made == sorted(set(made))


def test_ids_are_uuids_of_version_7_with_the_time() -> None:
    for made in EventIds(lambda: 1_700_000_000_123).batch(5000):
        found = uuid.UUID(made.decode())
        assert (found.version, found.variant) == (7, uuid.RFC_4122)
        assert found.int >> 80 == 1_700_000_000_123


def test_many_gateways_in_one_millisecond_do_not_collide() -> None:
    made = [EventIds(lambda: 1_700_000_000_000).one() for _ in range(5000)]
    assert len(set(made)) == 5000


def test_a_key_is_kept_as_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    secret, key_id = keys.create(path, "my-shop_1", pipelines=("clicks",), limits=("events=100/1m",))
    assert re.fullmatch(r"tw_my-shop_1_[0-9a-f]{40}", secret)
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    found = keys.FileApiKeys(path).find(secret)
    assert found is not None
    assert (found.key_id, found.project, found.allows("clicks"), found.allows("orders")) == (
        key_id,
        "my-shop_1",
        True,
        False,
    )
    assert str(found.limits[0]) == "events=100/1m"
    assert keys.FileApiKeys(path).find(secret[:-1]) is None


def test_keys_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    store = keys.FileApiKeys(path)
    first, first_id = keys.create(path, "shop", limits=("requests=5/1s",))
    second, _ = keys.create(path, "shop")
    assert store.reload()
    assert not store.reload()
    assert store.find(first) == store.find(first)
    assert store.find(second).limits == store.find(first).limits  # type: ignore[union-attr]
    assert keys.revoke(path, first_id) == "shop"
    store.reload()
    assert store.find(first) is None
    assert store.find(second) is not None
    with pytest.raises(UsageError, match="no key"):
        keys.revoke(path, first_id)


@pytest.mark.parametrize(
    "text",
    [
        "projects: [",
        "projects: {Shop: {}}",
        "projects: {shop: {keys: [{id: 1, hash: x}]}}",
        "other: 1",
        "projects: {shop: {limits: [many]}}",
        "- 1",
    ],
)
def test_a_wrong_keys_file_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as raised:
        keys.FileApiKeys(path)
    assert raised.value.where == str(path)
    assert raised.value.fix


def test_the_key_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    monkeypatch.setenv("TIDEWATCH_GATEWAY__KEYS_FILE", str(path))
    run = CliRunner().invoke
    made = json.loads(run(command.app, ["create", "--project", "shop", "--pipeline", "clicks", "--json"]).stdout)
    assert keys.FileApiKeys(path).find(made["key"]) is not None
    shown = run(command.app, ["list", "--json"]).stdout
    assert json.loads(shown)[0]["id"] == made["id"]
    assert made["key"] not in shown
    assert made["id"] in run(command.app, ["list"]).stdout
    assert run(command.app, ["revoke", made["id"]]).exit_code == 0
    assert json.loads(run(command.app, ["list", "--json"]).stdout) == []
    assert run(command.app, ["create", "--project", "Shop!"]).exception is not None
    assert run(command.app, ["create", "--project", "shop", "--pipeline", "klicks"]).exception is not None


def test_the_caller_s_decision_to_sample_is_kept_and_the_context_always_goes_on() -> None:
    exporter = InMemorySpanExporter()
    with World(sample_ratio=0.0, exporter=exporter) as world:
        for flag in ("00", "01"):
            world.post(CLICKS, CLICK, traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-{flag}")
        world.post(CLICKS, CLICK, traceparent="nonsense")
        world.tracing.provider.force_flush()
        unsampled, sampled, fresh = (record for record in world.kafka.of("raw.clicks.v1"))
        assert unsampled.envelope.traceparent.startswith(f"00-{TRACE_ID}-")
        assert unsampled.envelope.traceparent.endswith("-00")
        assert TRACE_ID not in fresh.envelope.traceparent
        [span] = exporter.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert sampled.envelope.traceparent == f"00-{TRACE_ID}-{span.context.span_id:016x}-01"
    assert dict(sampled.headers)["traceparent"].decode() == sampled.envelope.traceparent
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == 202


def test_a_caller_s_flag_alone_cannot_make_us_keep_traces_without_end() -> None:
    exporter = InMemorySpanExporter()
    given = f"00-{TRACE_ID}-b7ad6b7169203331-01"
    with World(sample_ratio=0.0, exporter=exporter, max_sampled_per_second=2) as world:
        for _ in range(5):
            assert world.post(CLICKS, CLICK, key="nobody", traceparent=given).status == 401
        for _ in range(5):
            world.post(CLICKS, CLICK, traceparent=given)
        # Pages tell nothing worth a trace to whoever asks for one.
        world.run(world.request("GET", "/healthz", b"", key=None, traceparent=given))
        contexts = [record.envelope.traceparent for record in world.kafka.of("raw.clicks.v1")]
        world.clock.advance(2)
        world.post(CLICKS, CLICK, traceparent=given)
        world.tracing.provider.force_flush()
    assert [context[-2:] for context in contexts] == ["01", "01", "00", "00", "00"]
    assert all(TRACE_ID in context for context in contexts)
    assert [span.name for span in exporter.get_finished_spans()] == [f"POST {CLICKS}"] * 3


def test_a_root_span_has_the_ids_that_went_to_kafka() -> None:
    exporter = InMemorySpanExporter()
    with World(sample_ratio=1.0, exporter=exporter) as world:
        world.post(CLICKS, CLICK)
        world.get("/healthz")
        world.tracing.provider.force_flush()
        [record] = world.kafka.of("raw.clicks.v1")
        spans = {span.name: span for span in exporter.get_finished_spans()}
    span = spans[f"POST {CLICKS}"]
    assert span.parent is None
    assert record.envelope.traceparent == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
    assert "GET /healthz" in spans


def test_sampling_is_by_ratio() -> None:
    with World(sample_ratio=0.5) as world:
        for _ in range(200):
            world.post(CLICKS, CLICK)
        sampled = sum(r.envelope.traceparent.endswith("-01") for r in world.kafka.of("raw.clicks.v1"))
    assert 40 < sampled < 160


def accounts(world: World) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter()
    for record in world.kafka.of("tidewatch.accounting.v1"):
        event = json.loads(record.value)
        assert not Validator(SPECS["accounting"]).single(record.value).rejections
        decode_envelope(dict(record.headers)["tw"])
        names = ("pipeline", "project", "outcome", "field", "reason")
        found[tuple(event.get(name, "") for name in names)] += event["events"]
    return found


def test_offered_is_accepted_and_rejected_and_dead_lettered() -> None:
    with World() as world:
        world.post(CLICKS, [CLICK, CLICK, CLICK | {"position": 0}, CLICK | {"_x": 1}])
        world.post(CLICKS, b"[")
        world.post("/v1/events", APP_EVENT | {"user_id": 5})
        world.post("/api/v1/orders/", ORDER)
        assert world.run(world.app.services.accounting.flush())
        expected = {
            ("clicks", "shop", "accepted", "", ""): 2,
            ("clicks", "shop", "rejected", "position", "out_of_range"): 1,
            ("clicks", "shop", "rejected", "(other)", "reserved_field"): 1,
            ("clicks", "shop", "rejected", "", "invalid_json"): 1,
            ("app_events", "shop", "dead_lettered", "user_id", "wrong_type"): 1,
            ("orders", "shop", "accepted", "", ""): 1,
        }
        assert accounts(world) == expected
        events = "tidewatch_gateway_events_total"
        assert world.metric(events, pipeline="clicks", project="shop", outcome="accepted") == 2
        assert world.metric(events, pipeline="clicks", project="shop", outcome="rejected") == 3
        # Nothing is told twice.
        assert world.run(world.app.services.accounting.flush())
        assert accounts(world) == expected


def test_accounts_wait_while_kafka_is_away() -> None:
    with World() as world:
        client = world.kafka
        client.fails = lambda _: KafkaError(KafkaError._MSG_TIMED_OUT)
        assert world.post(CLICKS, [CLICK] * 3).status == 503
        assert not world.run(world.app.services.accounting.flush())
        client.fails = lambda _: None
        assert world.get("/readyz").status == 200
        assert world.run(world.app.services.accounting.flush())
        assert accounts(world) == {("clicks", "shop", "rejected", "", "unavailable"): 3}


def test_accounts_that_may_have_arrived_are_sent_again_under_the_same_id() -> None:
    with World() as world:
        flush = world.app.services.accounting.flush
        asked: list[tuple[bytes, str]] = []

        def fails(record: Record) -> KafkaError | None:
            if record.topic != "tidewatch.accounting.v1":
                return None
            asked.append((record.value, record.envelope.event_id))
            return KafkaError(KafkaError._MSG_TIMED_OUT)

        world.kafka.fails = fails
        world.post(CLICKS, CLICK)
        assert not world.run(flush())
        world.post(CLICKS, [CLICK] * 2)
        world.kafka.fails = lambda _: None
        assert world.get("/readyz").status == 200
        # In the same second: what is new is another record, for the first may have arrived.
        world.post(CLICKS, [CLICK] * 2)
        assert world.run(flush())
        told = [(r.value, r.envelope.event_id) for r in world.kafka.of("tidewatch.accounting.v1")]
        assert asked[0] in told
        assert len({event_id for _, event_id in told}) == len(told)
        accepted = ("clicks", "shop", "accepted", "", "")
        assert accounts(world)[accepted] == 3


def test_a_flush_under_way_is_awaited_at_the_end() -> None:
    with World() as world:
        services = world.app.services

        async def live() -> None:
            async with world.app.router.lifespan_context(world.app):
                services.accounting.accepted("clicks", "shop", 1, 10)
                world.kafka.silent = True
                while not world.kafka.pending:  # noqa: ASYNC110 — the fake has no event to wait for
                    await asyncio.sleep(0.01)
                asyncio.get_running_loop().call_later(0.2, lambda: setattr(world.kafka, "silent", False))

        world.run(live())
        assert accounts(world) == {("clicks", "shop", "accepted", "", ""): 1}


def test_accounts_that_wait_too_long_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.gateway.accounting._MAX_WAITING", 10)
    with World() as world:
        client = world.kafka
        client.fails = lambda _: KafkaError(KafkaError._MSG_TIMED_OUT)
        for _ in range(50):
            world.clock.advance(1)
            world.app.services.accounting.accepted("clicks", "shop", 1, 10)
            assert not world.run(world.app.services.accounting.flush())
        client.fails = lambda _: None
        assert world.get("/readyz").status == 200
        assert world.run(world.app.services.accounting.flush())
        assert len(world.kafka.of("tidewatch.accounting.v1")) <= 11
        assert accounts(world)["clicks", "shop", "accepted", "", ""] == 50


def test_openapi_holds_the_specs_and_its_examples_are_valid() -> None:
    with World() as world:
        document = world.get("/openapi.json").json
    for spec in SPECS.values():
        if spec.source.kind == "internal":
            continue
        for path in (spec.source.path, spec.source.batch_path):
            if path is not None:
                assert "202" in document["paths"][path]["post"]["responses"]
        schema: dict[str, Any] = document["components"]["schemas"][f"{spec.name}_event"]
        assert set(schema["properties"]) == {"event_id", *(field.name for field in spec.schema_.fields)}
        assert schema["additionalProperties"] == (spec.source.unknown_fields == "keep")
        raw = json.dumps(schema["example"]).encode()
        assert not Validator(spec).single(raw).rejections
        assert schema["example"] == example(spec)


def test_browsers_are_answered_only_where_it_is_configured() -> None:
    origin = "https://shop.example"
    asks = {"origin": origin, "access_control_request_method": "POST", "access_control_request_headers": "content-type"}
    with World(cors_origins=f"{origin}, https://other.example") as world:
        preflight = world.run(world.request("OPTIONS", CLICKS, b"", key=None, **asks))
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == origin
        assert world.post(CLICKS, CLICK, origin=origin).headers["access-control-allow-origin"] == origin
        assert "access-control-allow-origin" not in world.post(CLICKS, CLICK, origin="https://evil.example").headers
    with World() as world:
        assert "access-control-allow-origin" not in world.post(CLICKS, CLICK, origin=origin).headers
        assert world.run(world.request("OPTIONS", CLICKS, b"", key=None, **asks)).status == 405


@pytest.mark.parametrize("settings", [{"trusted_proxies": "10.0.0.0/33"}, {"address_limits": "many"}])
def test_wrong_settings_are_refused_by_name(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="TIDEWATCH_GATEWAY__"):
        World(**settings)


def test_requests_are_counted_with_their_durations() -> None:
    with World() as world:
        world.post(CLICKS, CLICK)
        world.post(CLICKS, b"[")
        world.run(world.request("BREW", "/pot", b""))
        text = world.get("/metrics").body.decode()
        requests = "tidewatch_gateway_requests_total"
        assert world.metric(requests, route=CLICKS, method="POST", status="202") == 1
        assert world.metric(requests, route=CLICKS, method="POST", status="400") == 1
        assert world.metric(requests, route="(unmatched)", method="(other)", status="404") == 1
        seconds = "tidewatch_gateway_request_seconds"
        assert world.metric(f"{seconds}_count", route=CLICKS) == 2
        assert world.metric(f"{seconds}_bucket", route=CLICKS, le="+Inf") == 2
        assert world.metric(f"{seconds}_sum", route=CLICKS) > 0
        assert world.metric(f"{seconds}_bucket", route=CLICKS, le="60.0") == 2
    assert f"# TYPE {seconds} histogram" in text
