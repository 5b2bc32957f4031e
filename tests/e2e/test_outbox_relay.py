"""The relay process against real Kafka and both databases: every committed order stands in the topic exactly once."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from confluent_kafka import Producer
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, text, update

from devstack.kafka import KafkaCluster
from devstack.ports import free_port
from devstack.process import Child
from ingest.outbox.claims import SqlClaims, depth
from ingest.outbox.log import KafkaLog, group_of
from ingest.outbox.steps import Relay, RelayFenced
from ingest.outbox.store import SqlOutbox
from ingest.outbox.tables import outbox, outbox_batches, prepare
from tidewatch.clock import SystemClock
from tidewatch.errors import Refused
from tidewatch.kafka.admin import LATEST, KafkaAdmin, NewTopic, Partition
from tidewatch.kafka.client import producer_config
from tidewatch.kafka.reading import LogReader
from tidewatch.record import Envelope
from tidewatch.settings import Kafka, Store, Telemetry
from tidewatch.spec import Spec, load
from tidewatch.sql import open_store
from tidewatch.telemetry.metrics import Registry
from tidewatch.telemetry.traces import Tracing

ROOT = Path(__file__).parents[2]
PARTITIONS = 3
DEADLINE_SECONDS = 60


@dataclass
class Stage:
    """One pipeline with an outbox, on a store and a broker of the test's choice."""

    directory: Path
    bootstrap: str
    store_url: str
    spec: Spec
    engine: Engine

    def relay(self, name: str = "relay") -> Child:
        port = free_port()
        child = Child(
            name,
            [sys.executable, "-m", "controlplane.cli.main", "outbox", "relay"],
            log=self.directory / f"{name}.log",
            cwd=ROOT,
            env={
                "TIDEWATCH_PIPELINES": str(self.directory / "pipelines"),
                "TIDEWATCH_KAFKA__BOOTSTRAP": self.bootstrap,
                "TIDEWATCH_STORE__URL": self.store_url,
                "TIDEWATCH_RELAY__PORT": str(port),
                "TIDEWATCH_TELEMETRY__SAMPLE_RATIO": "1",
            },
        )
        child.env["PROBES"] = f"http://127.0.0.1:{port}"
        return child

    def started(self, name: str = "relay") -> Child:
        return self.relay(name).start()

    def accept(self, ids: list[str], trace: str = f"00-{1:032x}-{2:016x}-00") -> None:
        async def run() -> None:
            store = SqlOutbox(self.engine, Registry("test"))
            for start in range(0, len(ids), 100):
                some = ids[start : start + 100]
                await asyncio.gather(
                    *(
                        store.accept(self.spec, "shop", i, b'{"id":"%s"}' % i.encode(), self.tw(i, trace), i.encode())
                        for i in some
                    )
                )
            await store.close()

        asyncio.run(run())

    def tw(self, event_id: str, trace: str) -> bytes:
        return Envelope(event_id, 1_772_366_400_000_000, 1, "shop", trace).encode()

    def in_topic(self) -> list[str]:
        """Event ids in committed records, by partition and offset."""
        found: list[str] = []
        settings = Kafka(bootstrap=self.bootstrap)
        topic = self.spec.topic.name
        with KafkaAdmin(settings) as admin, LogReader(settings) as reader:
            ends = admin.offsets([Partition(topic, p) for p in range(PARTITIONS)], LATEST)
            for where, end in ends.items():
                for message in reader.read(topic, where.partition, 0, end):
                    headers = dict(message.headers() or [])
                    value = headers["tw"]
                    assert isinstance(value, bytes)
                    event_id = value.decode().split(";")[0]
                    assert message.value() == b'{"id":"%s"}' % event_id.encode()
                    assert message.key() == event_id.encode()
                    found.append(event_id)
        return found

    def drained(self) -> bool:
        return depth(self.engine, self.spec.name).waiting == 0


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.05)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, fresh: str) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    server: Any = request.getfixturevalue("postgres")
    admin = create_engine(server.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE r{fresh}"))
    yield admin.url.set(database=f"r{fresh}").render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE r{fresh} WITH (FORCE)"))
    admin.dispose()


@contextmanager
def staged(bootstrap: str, store_url: str, directory: Path, fresh: str) -> Iterator[Stage]:
    pipelines = directory / "pipelines"
    pipelines.mkdir()
    source = (ROOT / "pipelines" / "orders.yaml").read_text()
    path = pipelines / "orders.yaml"
    path.write_text(source.replace("orders.v1", f"orders.{fresh}").replace("name: orders\n", f"name: o{fresh}\n"))
    spec = load(path)
    with KafkaAdmin(Kafka(bootstrap=bootstrap)) as admin:
        configs = {"message.timestamp.type": "LogAppendTime"}
        admin.create_topic(NewTopic(spec.topic.name, PARTITIONS, 1, configs))
    engine = open_store(Store(url=SecretStr(store_url)))
    prepare(engine)
    yield Stage(directory, bootstrap, store_url, spec, engine)
    engine.dispose()


@pytest.fixture
def stage(kafka: Any, store_url: str, tmp_path: Path, fresh: str) -> Iterator[Stage]:
    with staged(kafka.bootstrap, store_url, tmp_path, fresh) as made:
        yield made


@pytest.fixture
def light(kafka: Any, tmp_path: Path, fresh: str) -> Iterator[Stage]:
    """On SQLite alone, for what does not depend on the database."""
    with staged(kafka.bootstrap, f"sqlite:///{tmp_path}/store.db", tmp_path, fresh) as made:
        yield made


def test_orders_reach_the_topic_once_with_key_headers_and_trace(light: Stage) -> None:
    trace = f"00-{7:032x}-{9:016x}-01"
    with light.relay() as relay:
        light.accept(["a1", "a2"], trace)
        light.accept(["b1"])
        eventually(light.drained, "every row is emitted")
        probes = relay.env["PROBES"]
        with urlopen(f"{probes}/readyz") as answer:  # noqa: S310 — our own address
            assert json.loads(answer.read())["status"] == "ready"
        with urlopen(f"{probes}/metrics") as answer:  # noqa: S310
            assert f'tidewatch_outbox_emitted_total{{pipeline="{light.spec.name}"}} 3.0' in answer.read().decode()
        relay.stop()
        assert relay.returncode == 0
    assert sorted(light.in_topic()) == ["a1", "a2", "b1"]
    parents = {}
    with LogReader(Kafka(bootstrap=light.bootstrap)) as reader:
        for partition in range(PARTITIONS):
            for message in reader.read(light.spec.topic.name, partition, 0, 100):
                headers = dict(message.headers() or [])
                parents[message.key()] = headers.get("traceparent")
    assert parents[b"b1"] is None
    assert parents[b"a1"] is not None
    assert parents[b"a1"].startswith(f"00-{7:032x}-".encode())
    assert parents[b"a1"] != trace.encode(), "the record continues the trace under a span of the relay's own"


def test_a_relay_killed_ten_times_neither_loses_nor_doubles(stage: Stage) -> None:
    ids: list[str] = []
    rng = random.Random(20260301)
    for life in range(10):
        some = [f"order-{life}-{i}" for i in range(300)]
        ids += some
        emitted = depth(stage.engine, stage.spec.name).emitted
        relay = stage.started(f"relay-{life}")
        feeding = threading.Thread(target=_feed, args=(stage, some))
        feeding.start()
        # A life that emits something, and then ends anywhere inside the batches that follow.
        eventually(lambda before=emitted: depth(stage.engine, stage.spec.name).emitted > before, "this life emits")
        time.sleep(rng.random() * 0.2)
        relay.kill()
        feeding.join()
    with stage.relay("relay-last"):
        eventually(stage.drained, "every row is emitted")
    _assert_once(stage, ids)


def _feed(stage: Stage, ids: list[str]) -> None:
    """Slower than a relay, so that it makes many batches."""
    for start in range(0, len(ids), 10):
        stage.accept(ids[start : start + 10])
        time.sleep(0.01)


def _assert_once(stage: Stage, ids: list[str]) -> None:
    found = stage.in_topic()
    assert sorted(found) == sorted(ids)
    total = depth(stage.engine, stage.spec.name)
    assert (total.committed, total.emitted, total.waiting) == (len(ids), len(ids), 0)


def test_kafka_restarted_in_between(tmp_path: Path, fresh: str) -> None:
    with KafkaCluster(tmp_path / "kafka") as own:
        url = f"sqlite:///{tmp_path}/store.db"
        with staged(own.bootstrap, url, tmp_path, fresh) as stage, stage.relay():
            first, second, third = ([f"{part}{i}" for i in range(300)] for part in "abc")
            stage.accept(first)
            eventually(stage.drained, "the first are emitted")
            own.kill()  # librdkafka may never return from a call in flight: the relay must get out by itself
            stage.accept(second)  # the store needs no Kafka
            assert not stage.drained()
            own.start()
            stage.accept(third)
            eventually(stage.drained, "the rest is emitted after the restart")
            _assert_once(stage, first + second + third)


def test_a_second_relay_fences_the_first_which_ends_and_says_why(light: Stage) -> None:
    with ExitStack() as ends:
        first = ends.enter_context(light.relay("relay-first"))
        light.accept(["a"])
        eventually(light.drained, "the first relay works")
        ends.enter_context(light.relay("relay-second"))
        light.accept(["b"])
        eventually(lambda: not first.running, "the first relay ends")
        assert first.returncode == 1
        assert "was replaced by" in first.tail()
        assert "Traceback" not in first.tail()
        light.accept(["c"])
        eventually(light.drained, "the second relay works")
    _assert_once(light, ["a", "b", "c"])


@contextmanager
def relay_in_process(stage: Stage) -> Iterator[tuple[Relay, SqlClaims, KafkaLog]]:
    claims = SqlClaims(stage.engine, stage.spec.name, "in-process", SystemClock())
    log = KafkaLog(
        Kafka(bootstrap=stage.bootstrap), stage.spec.name, stage.spec.topic.name, Tracing("test", Telemetry())
    )
    yield Relay(claims, log), claims, log
    log.close()


def step(relay: Relay, times: int) -> None:
    for _ in range(times):
        relay.step()


def _crash_after_sending(stage: Stage, ids: list[str]) -> None:
    """Kafka has the batch, and the store does not know."""
    stage.accept(ids)
    with relay_in_process(stage) as (_, claims, log):
        claims.take_over()
        log.connect()
        batch = claims.claim(0)
        assert batch is not None
        log.send(batch)


def test_kafka_forgot_the_mark_so_the_topic_is_asked(light: Stage) -> None:
    _crash_after_sending(light, ["a", "b"])
    with KafkaAdmin(Kafka(bootstrap=light.bootstrap)) as admin:
        admin._client.delete_groups([group_of(light.spec.name)])
    light.accept(["c"])
    with light.relay():
        eventually(light.drained, "every row is settled or emitted")
    _assert_once(light, ["a", "b", "c"])


def test_a_store_restored_from_a_backup_asks_the_topic(light: Stage) -> None:
    _crash_after_sending(light, ["a", "b"])
    with light.engine.begin() as connection:
        connection.execute(update(outbox).values(batch=None, sent_at=None))
        connection.execute(outbox_batches.delete())
    light.accept(["c"])
    with light.relay():
        eventually(light.drained, "every row is settled or emitted")
    _assert_once(light, ["a", "b", "c"])


def test_when_neither_memory_can_tell_the_relay_refuses(light: Stage) -> None:
    _crash_after_sending(light, ["a", "b"])
    where = [Partition(light.spec.topic.name, p) for p in range(PARTITIONS)]
    with KafkaAdmin(Kafka(bootstrap=light.bootstrap)) as admin:
        admin._client.delete_groups([group_of(light.spec.name)])
        ends = admin.offsets(where, LATEST)
        admin.delete_records({place: end for place, end in ends.items() if end})
    with relay_in_process(light) as (relay, _, _), pytest.raises(Refused, match="cannot be told"):
        step(relay, 5)
    assert depth(light.engine, light.spec.name).waiting == 2


def test_a_producer_under_the_same_transactional_id_is_told_apart_from_a_second_relay(light: Stage) -> None:
    light.accept(["a", "b"])
    with relay_in_process(light) as (relay, claims, _):
        while relay.state.name != "CLAIMED":
            relay.step()
        settings = Kafka(bootstrap=light.bootstrap)
        stranger = Producer(producer_config(settings, "x", transactional_id=group_of(light.spec.name)))
        stranger.init_transactions(30)
        with pytest.raises(Exception, match="fenced"):
            relay.step()
        relay.lost()  # still ours in the store: begin again
        while not light.drained():
            relay.step()
        SqlClaims(light.engine, light.spec.name, "another", SystemClock()).take_over()
        with pytest.raises(RelayFenced, match="another"):
            relay.lost()
        assert claims is not None
    _assert_once(light, ["a", "b"])


def test_status_reads_the_store_alone(light: Stage) -> None:
    light.accept(["a", "b"])
    child = light.relay("status")
    child.argv[-1] = "status"
    child.argv.append("--json")
    child.env["TIDEWATCH_KAFKA__BOOTSTRAP"] = "127.0.0.1:1"
    child.start()
    assert child.wait(30) == 0
    found = json.loads(child.log.read_text())[light.spec.name]
    assert (found["committed"], found["emitted"], found["waiting"]) == (2, 0, 2)
    assert found["oldest_waiting_seconds"] >= 0
