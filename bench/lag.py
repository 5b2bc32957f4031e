"""A full cycle of the lag collector: groups, commits, ends, join, publish; against the bare kafka-python calls.

Each side runs in a process of its own, in turns, so that neither warms or burdens the other; medians. With
`KMINION=path` KMinion is scraped in the same run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec

from bench._kafka_groups import groups_on_a_broker
from bench._report import median, report
from collectors.base import Context
from collectors.core.process import settle
from collectors.core.publication import Publication
from collectors.kafka.history import READINGS
from collectors.kafka_lag import KafkaLag
from devstack.ports import free_port
from tidewatch.settings import Collect, Kafka, Settings
from tidewatch.spec import Specs
from tidewatch.telemetry.exposition import Exposition
from tidewatch.telemetry.metrics import Registry


def bare(bootstrap: str) -> Callable[[], int]:
    """What anybody would write: list the groups, their offsets, and the ends of all partitions."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=60_000)

    def cycle() -> int:
        topics = admin.describe_topics(None) if not partitions else []
        for topic in topics:
            partitions.update(
                {TopicPartition(topic["name"], p["partition_index"]): OffsetSpec.LATEST for p in topic["partitions"]}
            )
        started = time.perf_counter()
        groups = admin.list_groups()
        admin.list_group_offsets([group["group_id"] for group in groups])
        admin.list_partition_offsets(partitions)
        return int((time.perf_counter() - started) * 1e6)

    partitions: dict[TopicPartition, OffsetSpec] = {}
    return cycle


def ours(bootstrap: str) -> Callable[[], int]:
    context = Context(Settings(kafka=Kafka(bootstrap=bootstrap), collect=Collect(interval_seconds=15)), Specs({}))
    registry = Registry("bench")
    exposition = Exposition(registry)
    publication = Publication(registry, exposition)
    collector = KafkaLag(context)
    for _ in range(READINGS):  # the windows are full, as they are after five minutes
        publication.publish(collector.name, collector.collect())
    settle()

    def cycle() -> int:
        started = time.perf_counter()
        publication.publish(collector.name, collector.collect())
        return int((time.perf_counter() - started) * 1e6)

    return cycle


def _serve(kind: str, bootstrap: str, pipe: Connection) -> None:
    cycle = {"bare": bare, "ours": ours}[kind](bootstrap)
    pipe.send("ready")
    while pipe.recv():
        pipe.send(cycle())


class Side:
    """One of the two, in a process of its own."""

    def __init__(self, kind: str, bootstrap: str) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        self.process = spawn.Process(target=_serve, args=(kind, bootstrap, theirs), daemon=True)
        self.process.start()
        self.pipe.recv()

    def cycle(self) -> float:
        self.pipe.send(True)
        return float(self.pipe.recv()) / 1e6

    @property
    def rss_mb(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def stop(self) -> None:
        self.pipe.send(False)
        self.process.join()


@contextmanager
def _kminion(bootstrap: str) -> Iterator[Callable[[], float] | None]:
    binary = os.environ.get("KMINION")
    if not binary:
        yield None
        return
    port = free_port()
    environment = {**os.environ, "KAFKA_BROKERS": bootstrap, "EXPORTER_PORT": str(port), "EXPORTER_HOST": "127.0.0.1"}
    process = subprocess.Popen([binary], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def scrape() -> float:
        started = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            answer.read()
        return time.perf_counter() - started

    try:
        _until(scrape)
        yield scrape
    finally:
        process.terminate()
        process.wait()


def _until(works: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            works()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--each", type=int, default=1000, help="partitions that each group has committed")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with groups_on_a_broker(options.partitions, options.groups, options.each) as bootstrap:
        sides = {kind: Side(kind, bootstrap) for kind in ("bare", "ours")}
        with _kminion(bootstrap) as scrape:
            for side in sides.values():
                side.cycle()  # connections, caches
            times: dict[str, list[float]] = {"bare": [], "ours": [], "kminion": []}
            for _ in range(options.rounds):
                for kind, side in sides.items():
                    times[kind].append(side.cycle())
                if scrape:
                    times["kminion"].append(scrape())
        rss = sides["ours"].rss_mb
        for side in sides.values():
            side.stop()
    cycle, alone = median(times["ours"]), median(times["bare"])
    report(
        Path(__file__).stem,
        {
            "cycle_s": round(cycle, 3),
            "bare_s": round(alone, 3),
            "ratio_to_bare": round(cycle / alone, 2),
            "kminion_s": round(median(times["kminion"]), 3) if times["kminion"] else None,
            "rss_mb": round(rss, 1),
            "partitions": options.partitions,
            "groups": options.groups,
            "committed_each": options.each,
            "rounds": options.rounds,
            "all_s": {kind: [round(t, 3) for t in values] for kind, values in times.items() if values},
        },
    )


if __name__ == "__main__":
    main()
