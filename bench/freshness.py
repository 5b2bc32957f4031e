"""From accepted by the gateway to queryable in ClickHouse, at a steady rate, through the real gateway and loader.

    python -m bench.freshness [--seconds 60] [--rate 10000]

An event is accepted when the gateway took its request (`_received_at`), and queryable when a query first saw the insert
that it came with; the table is asked every 25 ms. Broker, engine, gateway, loader and load share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import yaml

from bench._report import report
from bench.loader import PIPELINES, create_tables
from devstack.clickhouse import ClickHouseFront
from devstack.kafka import KafkaCluster
from devstack.ports import free_port
from devstack.process import Child
from ingest.gateway import keys
from tidewatch.clickhouse import ClickHouse
from tidewatch.kafka.admin import KafkaAdmin, NewTopic
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.settings import Kafka as KafkaSettings
from tidewatch.spec import load_all

BATCH = 100
POLL_SECONDS = 0.025


def event(number: int) -> dict[str, object]:
    return {
        "event": "click" if number % 100 == 0 else "impression",
        "occurred_at": f"2026-01-31T12:00:{number % 60:02d}.979311+00:00",
        "item_id": number % 80,
        "position": 1 + number % 3,
        "campaign": "bts_men",
        "user_id": f"{number * 2654435761 % 2**128:032x}",
        "propensity": 0.045525,
    }


@contextmanager
def stack(directory: Path, kafka: KafkaCluster, front: ClickHouseFront) -> Iterator[tuple[ClickHouse, int, str]]:
    """(the database, the gateway's port, a key)"""
    specs = directory / "pipelines"
    specs.mkdir()
    (specs / "clicks.yaml").write_text(
        yaml.safe_dump(yaml.safe_load((PIPELINES / "clicks.yaml").read_text(encoding="utf-8"))), encoding="utf-8"
    )
    spec = load_all(specs)["clicks"]
    with KafkaAdmin(KafkaSettings(bootstrap=kafka.bootstrap)) as admin:
        for topic, partitions in ((spec.topic.name, spec.topic.partitions), (spec.dead_letters.topic, 1)):
            admin.create_topic(NewTopic(topic, partitions, 1, {"message.timestamp.type": "LogAppendTime"}))
    with ClickHouse(ClickHouseSettings(url=front.url)) as server:
        server.command("CREATE DATABASE freshness")
    clickhouse = ClickHouse(ClickHouseSettings(url=front.url, database="freshness"))
    create_tables(clickhouse, spec)
    key, _ = keys.create(directory / "keys.yaml", "bench")
    ports = {"gateway": free_port(), "loader": free_port()}
    environment = {
        "TIDEWATCH_PIPELINES": str(specs),
        "TIDEWATCH_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "TIDEWATCH_CLICKHOUSE__URL": front.url,
        "TIDEWATCH_CLICKHOUSE__DATABASE": "freshness",
        "TIDEWATCH_GATEWAY__KEYS_FILE": str(directory / "keys.yaml"),
        "TIDEWATCH_GATEWAY__PORT": str(ports["gateway"]),
        "TIDEWATCH_LOADER__PORT": str(ports["loader"]),
    }
    commands = {"gateway": ["gateway"], "loader": ["loader", "--pipeline", "clicks"]}
    children = [
        Child(
            name,
            [sys.executable, "-m", "controlplane.cli.main", *commands[name]],
            log=directory / f"{name}.log",
            env=environment,
        )
        for name in ports
    ]
    try:
        for child in children:
            url = f"http://127.0.0.1:{ports[child.name]}/readyz"
            child.start().wait_ready(lambda url=url: _ready(url), 60)
        yield clickhouse, ports["gateway"], key
    finally:
        for child in children:
            child.stop()
        clickhouse.close()


def _ready(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 — our own address
        return bool(answer.status == 200)


def watch(clickhouse: ClickHouse, load: subprocess.Popen[str]) -> dict[datetime, float]:
    """When each insert was first seen, until the load has ended and nothing new came for three seconds."""
    seen: dict[datetime, float] = {}
    quiet_since = time.time()
    query = "SELECT DISTINCT _loaded_at FROM raw_clicks WHERE _loaded_at > now64(3) - 10"
    while load.poll() is None or time.time() - quiet_since < 3:
        inserts = {row[0] for row in clickhouse.query(query)} - seen.keys()
        now = time.time()
        if inserts:
            quiet_since = now
            seen.update(dict.fromkeys(inserts, now))
        time.sleep(POLL_SECONDS)
    return seen


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--rate", type=int, default=10_000)
    chosen = options.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="tidewatch-freshness-") as name,
        KafkaCluster(Path(name) / "kafka") as kafka,
        ClickHouseFront(Path(name) / "clickhouse") as front,
        stack(Path(name), kafka, front) as (clickhouse, port, key),
    ):
        body = Path(name) / "batch.json"
        body.write_text(json.dumps([event(n) for n in range(BATCH)]), encoding="utf-8")
        plan = {
            "port": port,
            "path": "/api/v1/clicks/",
            "key": key,
            "body_file": str(body),
            "connections": 32,
            "seconds": chosen.seconds,
            "rate": chosen.rate / BATCH,
        }
        command = [sys.executable, "-m", "bench._http_load"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
            if load.stdin:
                # Not as an argument: those of a process are everybody's to read, and this holds a key.
                load.stdin.write(json.dumps(plan))
                load.stdin.close()
            seen = watch(clickhouse, load)
            answers = json.loads(load.stdout.read() if load.stdout else "{}")
        rows = clickhouse.query("SELECT _loaded_at, _received_at FROM raw_clicks")
    ages = np.array([seen[loaded] - received.timestamp() for loaded, received in rows])
    sent = answers["answers"] * BATCH
    report(
        "freshness",
        {
            "p50_s": round(float(np.percentile(ages, 50)), 3),
            "p99_s": round(float(np.percentile(ages, 99)), 3),
            "max_s": round(float(ages.max()), 3),
            "events": len(ages),
            "accepted": sent,
            "events_per_s": round(sent / (chosen.seconds + 2)),
            "inserts": len(seen),
        },
    )


if __name__ == "__main__":
    main()
