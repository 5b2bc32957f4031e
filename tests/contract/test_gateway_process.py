"""The gateway as a process over a real Kafka: what it writes, how it starts, changes its keys, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka.admin import AdminClient
from gateway_process import GatewayProcess

from devstack.kafka import KafkaCluster
from devstack.proxy import TcpProxy
from ingest.gateway import keys
from tidewatch.record import decode_envelope

CLICK = {"event": "click", "occurred_at": "2026-01-31T12:00:00Z", "item_id": 7, "position": 3, "campaign": "men"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def gateway(kafka: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    directory = tmp_path_factory.mktemp("gateway")
    with GatewayProcess(directory, kafka.bootstrap, directory.name).make_topics() as gateway:
        yield gateway


def clicks_sent(gateway: GatewayProcess) -> list[tuple[bytes, dict[str, bytes]]]:
    return gateway.records(gateway.specs["clicks"].topic.name)


def test_an_event_is_in_kafka_when_it_is_answered(gateway: GatewayProcess) -> None:
    answer = gateway.client.post(gateway.path("clicks"), json=CLICK | {"item_id": 1001})
    assert answer.status_code == 202
    found = [decode_envelope(headers["tw"]) for value, headers in clicks_sent(gateway) if b"1001" in value]
    assert [envelope.event_id for envelope in found] == [answer.json()["event_id"]]
    assert abs(found[0].received_at_us / 1e6 - time.time()) < 600


def test_a_sampled_trace_goes_on_in_kafka(gateway: GatewayProcess) -> None:
    event = CLICK | {"item_id": 1002}
    gateway.client.post(gateway.path("clicks"), json=event, headers={"traceparent": TRACE})
    [headers] = [headers for value, headers in clicks_sent(gateway) if b"1002" in value]
    traceparent = headers["traceparent"].decode()
    assert traceparent.split(";")[-1].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert traceparent != TRACE
    assert decode_envelope(headers["tw"]).traceparent == traceparent


def test_five_thousand_events_at_once(gateway: GatewayProcess) -> None:
    batch = [CLICK | {"item_id": 2000, "position": 1 + n % 100} for n in range(5000)]
    results = gateway.client.post(gateway.path("clicks"), json=batch).json()["results"]
    ids = {decode_envelope(h["tw"]).event_id for value, h in clicks_sent(gateway) if b'"item_id":2000' in value}
    assert ids == {result["event_id"] for result in results}
    assert len(ids) == 5000


def test_orders_are_answered_from_the_store(gateway: GatewayProcess) -> None:
    order = {
        "invoice_no": "1",
        "ordered_at": "2026-01-31T12:00:00Z",
        "country": "UK",
        "total": "1.50",
        "units": 1,
        "lines": 1,
    }
    first = gateway.client.post(gateway.path("orders"), json=order, headers={"Idempotency-Key": "order-1"})
    assert (first.status_code, first.json()) == (202, {"order_id": "order-1"})
    again = gateway.client.post(gateway.path("orders"), json=order, headers={"Idempotency-Key": "order-1"})
    assert again.status_code == 202
    other = gateway.client.post(
        gateway.path("orders"), json=order | {"units": 2}, headers={"Idempotency-Key": "order-1"}
    )
    assert other.status_code == 409
    assert other.headers["content-type"] == "application/problem+json"


def test_counts_add_up_in_metrics_and_in_the_accounting_topic(gateway: GatewayProcess) -> None:
    events = [CLICK, CLICK | {"position": 0}, 5]
    before = _offered(gateway)
    assert gateway.client.post(gateway.path("clicks"), json=events).json()["rejected"] == 2
    after = _offered(gateway)
    assert after["accepted"] - before["accepted"] == 1
    assert after["rejected"] - before["rejected"] == 2
    # Sent once a second.
    deadline = time.monotonic() + 30
    while (told := _accounted(gateway)) != after and time.monotonic() < deadline:
        time.sleep(0.2)
    assert told == after


def _offered(gateway: GatewayProcess) -> dict[str, int]:
    counts = {"accepted": 0, "rejected": 0}
    for line in gateway.client.get("/metrics").text.splitlines():
        if line.startswith("tidewatch_gateway_events_total{") and 'pipeline="clicks"' in line:
            outcome = line.split('outcome="')[1].split('"')[0]
            counts[outcome] += int(float(line.rsplit(" ", 1)[1]))
    return counts


def _accounted(gateway: GatewayProcess) -> dict[str, int]:
    counts: dict[str, int] = {"accepted": 0, "rejected": 0}
    instance = _instance(gateway)
    for value, headers in gateway.records(gateway.specs["accounting"].topic.name):
        event = json.loads(value)
        if event["pipeline"] == "clicks" and event["gateway"] == instance:
            assert decode_envelope(headers["tw"]).project == ""
            counts[event["outcome"]] += event["events"]
    return counts


def _instance(gateway: GatewayProcess) -> str:
    for line in gateway.client.get("/metrics").text.splitlines():
        if line.startswith("tidewatch_gateway_instance_info{"):
            return line.split('gateway="')[1].split('"')[0]
    raise AssertionError("no instance in /metrics")


def test_every_route_is_counted(gateway: GatewayProcess) -> None:
    gateway.client.get("/health")
    gateway.client.get("/openapi.json")
    gateway.client.get("/wp-login.php")
    gateway.client.post(gateway.path("clicks"), json=CLICK)
    text = gateway.client.get("/metrics").text
    for route, method, status in (
        ("/health", "GET", "200"),
        ("/openapi.json", "GET", "200"),
        ("(unmatched)", "GET", "404"),
        (gateway.path("clicks"), "POST", "202"),
    ):
        assert f'{{method="{method}",route="{route}",status="{status}"}}' in text


def test_new_and_revoked_keys_are_noticed(gateway: GatewayProcess) -> None:
    key, key_id = keys.create(gateway.keys_file, "shop", pipelines=("clicks",))
    headers = {"authorization": f"Bearer {key}"}
    _until(lambda: gateway.client.post(gateway.path("clicks"), json=CLICK, headers=headers).status_code == 202)
    assert gateway.client.post(gateway.path("app_events"), json={}, headers=headers).status_code == 403
    keys.revoke(gateway.keys_file, key_id)
    _until(lambda: gateway.client.post(gateway.path("clicks"), json=CLICK, headers=headers).status_code == 401)


def test_a_wrong_keys_file_leaves_the_keys_as_they_are(gateway: GatewayProcess) -> None:
    good = gateway.keys_file.read_text()
    gateway.keys_file.write_text("projects: [nonsense")
    gateway.child.signal(signal.SIGHUP)
    _until(lambda: "gateway.keys_not_reloaded" in gateway.child.tail())
    assert gateway.client.post(gateway.path("clicks"), json=CLICK).status_code == 202
    gateway.keys_file.write_text(good)


def test_heads_have_an_end(gateway: GatewayProcess) -> None:
    assert gateway.client.get("/healthz", headers={"x-large": "x" * 1_000_000}).status_code == 431
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-endless: " + b"x" * 1_000_000)
        assert b" 431 " in raw.recv(4096)
    assert gateway.client.get("/healthz").status_code == 200


def test_a_body_that_is_refused_unread_does_not_break_the_connection(gateway: GatewayProcess) -> None:
    path = gateway.path("clicks")
    assert gateway.client.post(path, content=b" " * 3_000_000).status_code == 413
    assert gateway.client.post(path, json=CLICK, headers={"authorization": "Bearer no"}).status_code == 401
    assert gateway.client.post(path, json=CLICK).status_code == 202


def test_the_documentation_loads_nothing_from_elsewhere(gateway: GatewayProcess) -> None:
    page = gateway.client.get("/docs").text
    assert gateway.path("clicks") in page
    assert "<script" not in page
    assert "src=" not in page


def test_sigterm_finishes_what_was_begun(kafka: KafkaCluster, tmp_path: Path, fresh: str) -> None:
    gateway = GatewayProcess(tmp_path, kafka.bootstrap, fresh, gateway__linger_ms="300").make_topics()

    async def send_and_stop() -> list[Any]:
        async with httpx.AsyncClient(base_url=gateway.url, headers=gateway.headers, timeout=30) as client:
            requests = [asyncio.create_task(client.post(gateway.path("clicks"), json=CLICK)) for _ in range(20)]
            await asyncio.sleep(0.15)
            gateway.child.signal(signal.SIGTERM)
            return await asyncio.gather(*requests, return_exceptions=True)

    with gateway:
        gateway.client.post(gateway.path("clicks"), json=CLICK)
        answers = asyncio.run(send_and_stop())
        assert gateway.child.wait(30) == 0
    answered = {a.json()["event_id"] for a in answers if isinstance(a, httpx.Response) and a.status_code == 202}
    assert answered
    sent = {decode_envelope(h["tw"]).event_id for _, h in gateway.records(gateway.specs["clicks"].topic.name)}
    assert answered <= sent
    assert "gateway.drained" in gateway.child.log.read_text()


def test_kafka_away_is_a_503_in_bounded_time_and_never_a_202(tmp_path: Path, fresh: str) -> None:
    cluster = KafkaCluster(tmp_path / "kafka")
    with TcpProxy(cluster.ports[0].client) as proxy:
        cluster.advertise([proxy.port])
        with cluster:
            _away(cluster, proxy, tmp_path / "gateway", fresh)


def _away(cluster: KafkaCluster, proxy: TcpProxy, directory: Path, fresh: str) -> None:
    settings = {"gateway__delivery_timeout_seconds": "3"}
    gateway = GatewayProcess(directory, cluster.bootstrap, fresh, **settings).make_topics()
    with gateway:
        path = gateway.path("clicks")
        assert gateway.client.post(path, json=CLICK).status_code == 202
        proxy.blackhole()
        first = gateway.client.post(path, json=CLICK | {"item_id": 666})
        assert first.status_code == 503
        assert int(first.headers["retry-after"]) >= 1
        assert gateway.client.post(path, json=CLICK).status_code == 503
        assert gateway.client.get("/readyz").status_code == 503
        assert gateway.client.get("/healthz").status_code == 200
        proxy.heal()
        _until(lambda: gateway.client.get("/readyz").status_code == 200)
        assert gateway.client.post(path, json=CLICK).status_code == 202
        assert len(clicks_sent(gateway)) in {2, 3}


def test_a_gateway_that_was_there_before_kafka_becomes_ready_by_itself(tmp_path: Path, fresh: str) -> None:
    cluster = KafkaCluster(tmp_path / "kafka")
    settings = {"gateway__delivery_timeout_seconds": "3", "gateway__probe_topic": f"probe.{fresh}"}
    gateway = GatewayProcess(tmp_path / "gateway", cluster.bootstrap, fresh, **settings)
    with contextlib.ExitStack() as exits:
        exits.callback(gateway.__exit__)
        gateway.start(ready="/healthz")
        assert gateway.client.get("/readyz").status_code == 503
        assert gateway.client.post(gateway.path("clicks"), json=CLICK).status_code == 503
        exits.enter_context(cluster)
        gateway.make_topics()
        _until(lambda: gateway.client.get("/readyz").status_code == 200, 60)
        assert gateway.client.post(gateway.path("clicks"), json=CLICK).status_code == 202
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        admin.delete_topics([f"probe.{fresh}"])[f"probe.{fresh}"].result()
        _until(lambda: gateway.client.get("/readyz").status_code == 503, 60)
        _until(lambda: gateway.client.get("/readyz").status_code == 200, 60)


def _until(true: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)
