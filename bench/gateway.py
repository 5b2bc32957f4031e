"""How many events a second one gateway process takes, against a bare ASGI application on the same broker.

    python -m bench.gateway [--rounds 5] [--seconds 6]

Both are started afresh for each measurement and in turn, and the medians are compared; broker, load client and gateway
share the machine's cores. Events are clicks of about 190 bytes; the records carry the same headers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml
from confluent_kafka.admin import AdminClient, NewTopic

from bench._report import median, report
from devstack.kafka import KafkaCluster
from devstack.ports import free_port
from devstack.process import Child
from ingest.gateway import keys
from tidewatch.spec import load_all

PIPELINES = Path(__file__).parent.parent / "pipelines"
BATCH, BATCH_CONNECTIONS = 500, 32
SINGLE_CONNECTIONS = (64, 256)
HALF_PEAK_CONNECTIONS = 64


def event(number: int) -> dict[str, Any]:
    return {
        "event": "click" if number % 100 == 0 else "impression",
        "occurred_at": f"2026-01-31T12:{number // 60 % 60:02d}:{number % 60:02d}.979311+00:00",
        "item_id": number % 80,
        "position": 1 + number % 3,
        "campaign": "bts_men",
        "user_id": f"{number * 2654435761 % 2**128:032x}",
        "propensity": 0.045525,
    }


class Bench:
    def __init__(self, directory: Path, cluster: KafkaCluster, seconds: float) -> None:
        self._directory, self._seconds = directory, seconds
        self._environment = {
            "TIDEWATCH_KAFKA__BOOTSTRAP": cluster.bootstrap,
            "TIDEWATCH_PIPELINES": str(self._pipelines()),
            "TIDEWATCH_GATEWAY__KEYS_FILE": str(directory / "keys.yaml"),
        }
        self._key, _ = keys.create(directory / "keys.yaml", "bench")
        self._batch = directory / "batch.json"
        self._batch.write_text(json.dumps([event(n) for n in range(BATCH)], separators=(",", ":")))
        self._single = directory / "single.json"
        self._single.write_text(json.dumps(event(7), separators=(",", ":")))
        self.figures: dict[str, list[float]] = defaultdict(list)

    def _pipelines(self) -> Path:
        """`clicks` alone, so that no SQL store is needed."""
        path = self._directory / "pipelines"
        path.mkdir()
        text = yaml.safe_load((PIPELINES / "clicks.yaml").read_text())
        (path / "clicks.yaml").write_text(yaml.safe_dump(text))
        return path

    @contextmanager
    def _server(self, name: str) -> Iterator[tuple[int, psutil.Process]]:
        port = free_port()
        commands = {
            "ours": [sys.executable, "-m", "controlplane.cli.main", "gateway"],
            "bare": [sys.executable, "-m", "bench._bare_gateway", str(port), "raw.clicks.v1"],
        }
        environment = self._environment | {"TIDEWATCH_GATEWAY__PORT": str(port)}
        child = Child(name, commands[name], log=self._directory / f"{name}.log", env=environment)
        with child:
            child.wait_ready(lambda: _answers(port))
            yield port, psutil.Process(child.pid)

    def _load(self, port: int, body: Path, connections: int, rate: float | None = None) -> dict[str, Any]:
        plan = {
            "port": port,
            "path": "/api/v1/clicks/",
            "key": self._key,
            "body_file": str(body),
            "connections": connections,
            "seconds": self._seconds,
            "rate": rate,
        }
        command = [sys.executable, "-m", "bench._http_load"]
        # Not as an argument: those of a process are everybody's to read, and this holds a key.
        text = json.dumps(plan)
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, env=os.environ.copy())
        found: dict[str, Any] = json.loads(done.stdout)
        if set(found["statuses"]) != {"202"}:
            raise SystemExit(f"not every request was answered 202: {found['statuses']}")
        return found

    def _load_and_cpu(
        self, process: psutil.Process, port: int, body: Path, connections: int
    ) -> tuple[dict[str, Any], float]:
        """Also the microseconds of CPU that the server spent on a request, which other load disturbs less."""
        before = sum(process.cpu_times()[:2])
        found = self._load(port, body, connections)
        return found, (sum(process.cpu_times()[:2]) - before) / found["answers"] * 1e6

    def round(self, name: str) -> None:
        """One fresh start: batches, then single events, then single events at half of that rate."""
        with self._server(name) as (port, process):
            batches, cpu = self._load_and_cpu(process, port, self._batch, BATCH_CONNECTIONS)
            self._note(name, "batch_events_per_s", batches["rps"] * BATCH)
            self._note(name, "batch_cpu_us", cpu)
            _, cpu = self._load_and_cpu(process, port, self._single, SINGLE_CONNECTIONS[0])
            self._note(name, "single_cpu_us", cpu)
            peaks = [self._load(port, self._single, connections)["rps"] for connections in SINGLE_CONNECTIONS]
            for connections, peak in zip(SINGLE_CONNECTIONS, peaks, strict=True):
                self._note(name, f"single_rps_{connections}", peak)
            self._note(name, "single_rps", max(peaks))
            half = self._load(port, self._single, HALF_PEAK_CONNECTIONS, rate=max(peaks) / 2)
            self._note(name, "p50_ms", half["p50_ms"])
            self._note(name, "p99_ms", half["p99_ms"])

    def _note(self, name: str, figure: str, value: float) -> None:
        self.figures[f"{name}:{figure}"].append(value)
        print(f"{name:5} {figure:22} {value:12,.1f}", flush=True)

    def median(self, name: str, figure: str) -> float:
        return median(self.figures[f"{name}:{figure}"])


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _make_topics(cluster: KafkaCluster) -> None:
    specs = load_all(PIPELINES)
    wanted = [specs["clicks"].topic, specs["accounting"].topic]
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    topics = [
        NewTopic(topic.name, topic.partitions, 1, config={"retention.bytes": str(256 * 2**20)}) for topic in wanted
    ]
    for made in admin.create_topics(topics).values():
        made.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as name:
        directory = Path(name)
        with KafkaCluster(directory / "kafka", config={"log.retention.check.interval.ms": "5000"}) as cluster:
            _make_topics(cluster)
            bench = Bench(directory, cluster, options.seconds)
            for number in range(options.rounds):
                # Who goes first changes, for the machine may change under us.
                for who in ("bare", "ours") if number % 2 == 0 else ("ours", "bare"):
                    bench.round(who)
                    time.sleep(0.5)
    figures = {
        "batch_events_per_s": round(bench.median("ours", "batch_events_per_s")),
        "batch_ratio": round(_ratio(bench, "batch_events_per_s"), 3),
        "single_rps": round(bench.median("ours", "single_rps")),
        "single_ratio": round(_ratio(bench, "single_rps"), 3),
        "p99_ms": bench.median("ours", "p99_ms"),
        "p50_ms": bench.median("ours", "p50_ms"),
        "bare_batch_events_per_s": round(bench.median("bare", "batch_events_per_s")),
        "bare_single_rps": round(bench.median("bare", "single_rps")),
        "bare_p99_ms": bench.median("bare", "p99_ms"),
        "batch_cpu_us": round(bench.median("ours", "batch_cpu_us")),
        "bare_batch_cpu_us": round(bench.median("bare", "batch_cpu_us")),
        "single_cpu_us": round(bench.median("ours", "single_cpu_us")),
        "bare_single_cpu_us": round(bench.median("bare", "single_cpu_us")),
        "rounds": options.rounds,
    }
    report("gateway", figures)


def _ratio(bench: Bench, figure: str) -> float:
    return bench.median("ours", figure) / bench.median("bare", figure)


if __name__ == "__main__":
    main()
