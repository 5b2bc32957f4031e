"""CPU that `tidewatch collect` takes at 10,000 partitions and a 15 s interval, all Kafka collectors together.

Measured on the process itself, after its first cycles, over whole periods of its slowest collector; a scraper asks
every 15 s, as Prometheus does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from bench._kafka_groups import groups_on_a_broker
from bench._report import report
from devstack.ports import free_port
from devstack.process import Child

SLOWEST = 4  # of the interval: the collector of the topics' beginnings
COLLECTORS = ("kafka_brokers", "kafka_groups", "kafka_lag", "kafka_lag_seconds", "kafka_probe", "kafka_topics")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--each", type=int, default=1000, help="partitions that each group has committed")
    parser.add_argument("--interval", type=float, default=15.0)
    parser.add_argument("--periods", type=int, default=2)
    options = parser.parse_args()
    with (
        groups_on_a_broker(options.partitions, options.groups, options.each) as bootstrap,
        tempfile.TemporaryDirectory() as directory,
    ):
        port = free_port()
        environment = {
            **os.environ,
            "TIDEWATCH_KAFKA__BOOTSTRAP": bootstrap,
            "TIDEWATCH_COLLECT__PORT": str(port),
            "TIDEWATCH_COLLECT__INTERVAL_SECONDS": str(options.interval),
        }
        command = [sys.executable, "-m", "controlplane.cli.main", "collect", *(f"--only={c}" for c in COLLECTORS)]
        with Child("collect", command, log=Path(directory) / "collect.log", env=environment) as child:
            child.wait_ready(lambda: _get(port, "/readyz") > 0, 120)
            used, lasted, size = _watch(child, port, options.interval, options.periods)
            rss = psutil.Process(child.pid).memory_info().rss
    report(
        Path(__file__).stem,
        {
            "core_share": round(used / lasted, 4),
            "cpu_s": round(used, 2),
            "seconds": round(lasted, 1),
            "rss_mb": round(rss / 1e6, 1),
            "scrape_bytes": size,
            "partitions": options.partitions,
            "groups": options.groups,
            "committed_each": options.each,
            "interval_s": options.interval,
        },
    )


def _watch(child: Child, port: int, interval: float, periods: int) -> tuple[float, float, int]:
    process, size = psutil.Process(child.pid), 0
    time.sleep(interval)
    before, started = sum(process.cpu_times()[:2]), time.monotonic()
    for _ in range(SLOWEST * periods):
        size = _get(port, "/metrics")
        time.sleep(interval)
    return sum(process.cpu_times()[:2]) - before, time.monotonic() - started, size


def _get(port: int, path: str) -> int:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 — loopback
        return len(answer.read())


if __name__ == "__main__":
    main()
