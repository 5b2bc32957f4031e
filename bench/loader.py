"""How many rows a second one loader loads, against a bare pipelined loop on the same broker and the same engine.

    python -m bench.loader [--rounds 3] [--rows 1000000] [--batch-rows 100000]
    python -m bench.loader --rounds 1 --rows 10000000      memory over ten million rows

Both read a topic that is full already, in turn, into tables of their own with the same view. The rate is taken from the
table: rows after the first insert, over the time between the first and the last. Broker, engine and loader share the
machine's cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from confluent_kafka import Producer

from bench._report import median, report
from devstack.clickhouse import ClickHouseFront
from devstack.kafka import KafkaCluster
from devstack.ports import free_port
from devstack.process import Child
from ingest.schema import ddl
from tidewatch.clickhouse import ClickHouse
from tidewatch.kafka.admin import KafkaAdmin, NewTopic
from tidewatch.record import Envelope
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.settings import Kafka as KafkaSettings
from tidewatch.spec import Spec, load_all

PIPELINES = Path(__file__).parent.parent / "pipelines"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
WAIT_SECONDS = 900


def event(number: int) -> bytes:
    """250 bytes."""
    return json.dumps(
        {
            "event": "click" if number % 100 == 0 else "impression",
            "occurred_at": f"2026-01-31T12:{number // 60 % 60:02d}:{number % 60:02d}.979311Z",
            "item_id": number % 80,
            "position": 1 + number % 3,
            "campaign": "bts_men",
            "user_id": f"{number * 2654435761 % 2**128:096x}",
            "propensity": 0.045525,
        }
    ).encode()


def create_tables(clickhouse: ClickHouse, spec: Spec) -> None:
    clickhouse.command(ddl.raw_table(spec).create(clickhouse.database))
    clickhouse.command(ddl.dead_letters_table().create(clickhouse.database))
    for aggregate in spec.aggregates:
        types = {row[0]: row[1] for row in clickhouse.query(ddl.types_sql(spec, aggregate))}
        clickhouse.command(ddl.aggregate_table(spec, aggregate, types).create(clickhouse.database))
        clickhouse.command(ddl.aggregate_view(spec, aggregate).create(clickhouse.database))


class Bench:
    def __init__(self, directory: Path, cluster: KafkaCluster, front: ClickHouseFront, batch_rows: int) -> None:
        self._directory, self._cluster, self._front = directory, cluster, front
        self._batch_rows = batch_rows
        self._number = 0

    def topic(self, rows: int) -> str:
        """A full one, with its specs beside it."""
        self._number += 1
        name = f"raw.bench.{self._number}"
        with KafkaAdmin(KafkaSettings(bootstrap=self._cluster.bootstrap)) as admin:
            for topic, partitions in ((name, 6), (f"dlq.bench.{self._number}", 1)):
                admin.create_topic(NewTopic(topic, partitions, 1, {"message.timestamp.type": "LogAppendTime"}))
        spec = yaml.safe_load((PIPELINES / "clicks.yaml").read_text(encoding="utf-8"))
        spec["topic"]["name"], spec["dead_letters"]["topic"] = name, f"dlq.bench.{self._number}"
        specs = self._directory / name
        specs.mkdir()
        (specs / "clicks.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
        producer = Producer(
            {
                "bootstrap.servers": self._cluster.bootstrap,
                "acks": "all",
                "linger.ms": 50,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 500_000,
            }
        )
        now = time.time_ns() // 1000
        for n in range(rows):
            headers = [("tw", Envelope(f"018f0000-0000-7000-8000-{n:012d}", now + n, 1, "bench", TRACE).encode())]
            while True:
                try:
                    producer.produce(name, event(n), headers=headers, partition=n // 100 % 6)
                    break
                except BufferError:
                    producer.poll(0.05)
            if n % 1000 == 0:
                producer.poll(0)
        producer.flush(120)
        return name

    def measure(self, kind: str, topic: str, rows: int) -> dict[str, float]:
        """Rows a second and the greatest and last resident set in MB."""
        specs = self._directory / topic
        database = f"{kind}_{self._number}_{int(time.time() * 1000)}"
        clickhouse = self._database(database, specs)
        command = {"ours": self._ours, "bare": self._bare}[kind]
        child = command(topic, database, specs)
        sizes: list[float] = []
        with clickhouse:
            try:
                child.start()
                self._until(lambda: self._count(clickhouse) >= rows, child, sizes)
            finally:
                child.kill()
            inserts = clickhouse.query(
                "SELECT toFloat64(_loaded_at) AS at, count() FROM raw_clicks GROUP BY at ORDER BY at"
            )
            clickhouse.command(f"DROP DATABASE {database} SYNC")
        seconds = inserts[-1][0] - inserts[0][0]
        after_first = sum(count for _, count in inserts[1:])
        third = max(1, len(sizes) // 3)
        return {
            "rate": after_first / seconds,
            "rss": max(sizes),
            "growth": sum(sizes[-third:]) / third
            - sum(sizes[third : 2 * third]) / max(1, len(sizes[third : 2 * third])),
        }

    def _until(self, done: Callable[[], bool], child: Child, sizes: list[float]) -> None:
        until = time.monotonic() + WAIT_SECONDS
        while not done():
            if not child.running or child.pid is None or time.monotonic() > until:
                raise SystemExit(f"{child.name} ended or took too long; see {child.log}")
            sizes.append(psutil.Process(child.pid).memory_info().rss / 1e6)
            time.sleep(0.25)

    def _count(self, clickhouse: ClickHouse) -> int:
        return int(clickhouse.scalar("SELECT count() FROM raw_clicks"))

    def _database(self, name: str, specs: Path) -> ClickHouse:
        with ClickHouse(ClickHouseSettings(url=self._front.url)) as server:
            server.command(f"CREATE DATABASE {name}")
        clickhouse = ClickHouse(ClickHouseSettings(url=self._front.url, database=name))
        create_tables(clickhouse, load_all(specs)["clicks"])
        return clickhouse

    def _ours(self, topic: str, database: str, specs: Path) -> Child:
        environment = {
            "TIDEWATCH_PIPELINES": str(specs),
            "TIDEWATCH_KAFKA__BOOTSTRAP": self._cluster.bootstrap,
            "TIDEWATCH_CLICKHOUSE__URL": self._front.url,
            "TIDEWATCH_CLICKHOUSE__DATABASE": database,
            "TIDEWATCH_LOADER__BATCH_ROWS": str(self._batch_rows),
            "TIDEWATCH_LOADER__PORT": str(free_port()),
        }
        argv = [sys.executable, "-m", "controlplane.cli.main", "loader", "--pipeline", "clicks"]
        return Child("ours", argv, log=self._directory / f"{topic}.ours.log", env=environment)

    def _bare(self, topic: str, database: str, specs: Path) -> Child:
        argv = [self._cluster.bootstrap, topic, self._front.url, database, str(specs), str(self._batch_rows)]
        return Child(
            "bare",
            [sys.executable, "-m", "bench._bare_loader", *argv],
            log=self._directory / f"{topic}.bare.log",
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--batch-rows", type=int, default=100_000)
    chosen = options.parse_args()
    found: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
    with (
        tempfile.TemporaryDirectory(prefix="tidewatch-bench-") as directory,
        KafkaCluster(Path(directory) / "kafka") as cluster,
        ClickHouseFront(Path(directory) / "clickhouse") as front,
    ):
        bench = Bench(Path(directory), cluster, front, chosen.batch_rows)
        for number in range(chosen.rounds):
            topic = bench.topic(chosen.rows)
            for kind in ("ours", "bare") if number % 2 == 0 else ("bare", "ours"):
                result = bench.measure(kind, topic, chosen.rows)
                found[kind].append(result)
                print(f"{kind}: {result['rate']:,.0f} rows/s, {result['rss']:.0f} MB", flush=True)
    figures: dict[str, Any] = {
        "rows_per_s": round(median(r["rate"] for r in found["ours"])),
        "limit_rows_per_s": round(median(r["rate"] for r in found["bare"])),
        "ratio": round(
            median(ours["rate"] / bare["rate"] for ours, bare in zip(found["ours"], found["bare"], strict=True)), 3
        ),
        "rss_mb": round(max(r["rss"] for r in found["ours"])),
        "limit_rss_mb": round(max(r["rss"] for r in found["bare"])),
        "rss_growth_mb": round(median(r["growth"] for r in found["ours"]), 1),
        "rows": chosen.rows,
        "batch_rows": chosen.batch_rows,
        "rounds": chosen.rounds,
    }
    report("loader" if chosen.rows < 10_000_000 else "loader_memory", figures)


if __name__ == "__main__":
    main()
