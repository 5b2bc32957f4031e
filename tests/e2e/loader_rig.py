"""A pipeline of its own for one test: topics, tables, a sender, and loaders as child processes."""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from devstack.ports import free_port
from devstack.process import Child
from ingest.loader.service import group_of
from ingest.schema import ddl
from tidewatch.clickhouse import ClickHouse
from tidewatch.kafka.admin import LATEST, KafkaAdmin, NewTopic, Partition
from tidewatch.record import Envelope
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.settings import Kafka as KafkaSettings
from tidewatch.spec import Spec, parse

SPEC = """
name: clicks
description: A test's own.
owner: tests
source: {{kind: http, path: /clicks/, unknown_fields: keep}}
topic: {{name: raw.{fresh}, partitions: {partitions}, retention: 7d}}
dead_letters: {{topic: dlq.{fresh}, retention: 30d}}
schema:
  version: 1
  fields:
    - {{name: event, type: string, required: true, values: [impression, click]}}
    - {{name: occurred_at, type: timestamp, required: true}}
    - {{name: item_id, type: uint32, required: true}}
    - {{name: position, type: uint8, required: true, min: 1, max: 100}}
    - {{name: campaign, type: string, required: true}}
    - {{name: user_id, type: string}}
table: {{name: raw_clicks, order_by: [_project, campaign, occurred_at], dedup_window: {window}}}
aggregates:
  - name: clicks_hourly
    time: occurred_at
    by: [_project, campaign]
    measures: {{events: count(), clicks: countIf(event = 'click'), users: uniq(user_id)}}
"""
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


class Rig:
    PARDON = signal.SIGUSR2
    """Tells a loader that what is mostly bad is to be dead-lettered."""

    def __init__(
        self, bootstrap: str, url: str, fresh: str, directory: Path, *, partitions: int = 6, window: int = 100_000
    ) -> None:
        self.bootstrap = bootstrap
        self.url = url
        self.loader_url = url
        """What the loaders use: a proxy, where a test puts one in between."""
        self.loader_bootstrap = bootstrap
        self.fresh = fresh
        self.directory = directory
        self.partitions = partitions
        self.spec: Spec = parse(SPEC.format(fresh=fresh, partitions=partitions, window=window), "clicks.yaml")
        (directory / "pipelines").mkdir(parents=True, exist_ok=True)
        (directory / "pipelines" / "clicks.yaml").write_text(
            SPEC.format(fresh=fresh, partitions=partitions, window=window), encoding="utf-8"
        )
        self.database = f"t_{fresh}"
        with ClickHouse(ClickHouseSettings(url=url)) as server:
            server.command(f"CREATE DATABASE {self.database}")
        self.clickhouse = ClickHouse(ClickHouseSettings(url=url, database=self.database))
        self.admin = KafkaAdmin(KafkaSettings(bootstrap=bootstrap))
        self.loaders: list[Child] = []
        self.ports: dict[str, int] = {}
        self.sent = 0
        self._rng = random.Random(fresh)
        self._make()

    def _make(self) -> None:
        spec = self.spec
        for name, partitions in ((spec.topic.name, self.partitions), (spec.dead_letters.topic, 1)):
            self.admin.create_topic(NewTopic(name, partitions, 1, {"message.timestamp.type": "LogAppendTime"}))
        run = self.clickhouse.command
        run(ddl.raw_table(spec).create(self.database))
        run(ddl.dead_letters_table().create(self.database))
        for aggregate in spec.aggregates:
            types = {row[0]: row[1] for row in self.clickhouse.query(ddl.types_sql(spec, aggregate))}
            run(ddl.aggregate_table(spec, aggregate, types).create(self.database))
            run(ddl.aggregate_view(spec, aggregate).create(self.database))

    def remake_topic(self) -> None:
        self.admin.delete_topic(self.topic)
        time.sleep(1)
        self.admin.create_topic(NewTopic(self.topic, self.partitions, 1, {"message.timestamp.type": "LogAppendTime"}))

    def forget_offsets(self) -> bool:
        """As after seven days without a member; False while the group still counts one."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        deleted = admin.delete_consumer_groups([group_of(self.topic)])
        return all(future.exception(10) is None for future in deleted.values())

    @property
    def topic(self) -> str:
        return self.spec.topic.name

    # -- sending

    def send(self, count: int, *, bad: Callable[[int], bool] = lambda _: False) -> None:
        """`bad` is asked with the number of the event, from 0."""
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "acks": "all", "linger.ms": 20, "compression.type": "lz4"}
        )
        failed: list[str] = []

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(error.str())

        for n in range(count):
            value = b'{"event":"no' if bad(n) else self.event()
            envelope = Envelope(f"e-{self.fresh}-{self.sent + n}", time.time_ns() // 1000, 1, "shop", TRACE).encode()
            while True:
                try:
                    producer.produce(self.topic, value, headers=[("tw", envelope)], on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.flush(60)
        assert not failed, failed[:3]
        self.sent += count

    def event(self) -> bytes:
        rng = self._rng
        return json.dumps(
            {
                "event": rng.choice(("impression", "click")),
                "occurred_at": f"2026-01-0{rng.randint(1, 3)}T{rng.randint(0, 23):02}:00:00.5Z",
                "item_id": rng.randint(1, 10_000),
                "position": rng.randint(1, 100),
                "campaign": rng.choice(("all", "men", "women")),
                "user_id": f"u{rng.randint(1, 5000)}",
                "extra": "kept as it is, to make an event of a usual length of about 250 bytes with its keys",
            }
        ).encode()

    # -- loaders

    def loader(self, name: str = "a", **settings: Any) -> Child:
        """Start one. `settings` are of the loader's section."""
        port = free_port()
        values = {
            "TIDEWATCH_PIPELINES": str(self.directory / "pipelines"),
            "TIDEWATCH_KAFKA__BOOTSTRAP": self.loader_bootstrap,
            "TIDEWATCH_CLICKHOUSE__URL": self.loader_url,
            "TIDEWATCH_CLICKHOUSE__DATABASE": self.database,
            "TIDEWATCH_LOADER__INSTANCE": name,
            "TIDEWATCH_LOADER__PORT": str(port),
            "TIDEWATCH_LOADER__SESSION_TIMEOUT_SECONDS": "6",
            **{f"TIDEWATCH_LOADER__{key.upper()}": str(value) for key, value in settings.items()},
        }
        argv = [sys.executable, "-m", "controlplane.cli.main", "loader", "--pipeline", "clicks"]
        child = Child(f"loader-{name}", argv, log=self.directory / f"loader-{name}.log", env=values)
        self.ports[child.name] = port
        self.loaders.append(child)
        return child.start()

    def metric(self, child: Child, name: str, **labels: str) -> float:
        """Sum of the samples that carry these labels; 0 while the loader does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[child.name]}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0.0
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.partition("{")[0].partition(" ")[0] == name and all(label in line for label in wanted)
        )

    def ready(self, child: Child) -> tuple[int, list[str]]:
        """Status and problems of /readyz; (0, []) while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[child.name]}/readyz", timeout=5) as answer:
                return 200, json.loads(answer.read())["problems"]
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["problems"]
        except OSError:
            return 0, []

    # -- waiting

    def ends(self, topic: str | None = None) -> dict[int, int]:
        name = topic or self.topic
        partitions = range(self.partitions if name == self.topic else 1)
        found = self.admin.offsets([Partition(name, p) for p in partitions], LATEST)
        return {where.partition: offset for where, offset in found.items()}

    def committed(self, topic: str | None = None) -> Mapping[int, int]:
        name = topic or self.topic
        return {where.partition: c.offset for where, c in self.admin.committed(group_of(name)).items()}

    def stored(self) -> int:
        rows = self.clickhouse.scalar("SELECT count() FROM raw_clicks")
        letters = self.clickhouse.scalar("SELECT uniqExact(_partition, _offset) FROM dead_letters")
        return int(rows) + int(letters)

    def wait(self, what: Callable[[], bool], seconds: float = 120, why: str = "") -> None:
        until = time.monotonic() + seconds
        while not what():
            if time.monotonic() > until:
                tails = "\n".join(f"== {c.name} ({c.returncode})\n" + _tail(c.log) for c in self.loaders)
                raise AssertionError(f"not within {seconds} s: {why}\nstored {self.stored()} of {self.sent}\n{tails}")
            time.sleep(0.1)

    def settled(self, seconds: float = 180) -> None:
        """Every record is a row or a letter, and the group has committed that."""

        def all_final() -> bool:
            committed, ends = self.committed(), self.ends()
            return all(committed.get(p, 0) >= end - 1 for p, end in ends.items() if end)

        self.wait(lambda: self.stored() >= self.sent and all_final(), seconds, "all is loaded and committed")

    def stop(self) -> None:
        for child in self.loaders:
            if child.running:
                child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.clickhouse.close()
        self.admin.close()


def sending(rig: Rig, count: int, **how: Any) -> threading.Thread:
    """Send in the background."""
    thread = threading.Thread(target=rig.send, args=(count,), kwargs=how)
    thread.start()
    return thread


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
