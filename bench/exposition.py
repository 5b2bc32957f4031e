"""A scrape of 100,000 series while a poll is running: it reads what was swapped in, and waits for nobody.

The poll is the lag collector's own work, repeated without a pause in the same process: decoding answers of 100,000
offsets, joining, judging, rendering, compressing. The scrape asks for gzip, as Prometheus does, over HTTP from another
process; the plain text and prometheus-client's own rendering of as many series are measured beside it.
"""

from __future__ import annotations

import argparse
import gzip
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from http.client import HTTPConnection
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from kafka.protocol.consumer import OffsetFetchResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from bench._report import median, report
from collectors.base import Bulk, Reading
from collectors.core.process import settle
from collectors.core.publication import Publication
from tidewatch.clock import SystemClock
from tidewatch.telemetry.catalogue.collectors_kafka import KE_LAG
from tidewatch.telemetry.exposition import Block, Exposition
from tidewatch.telemetry.metrics import Registry
from tidewatch.telemetry.probes import Probes

GROUPS, EACH = 100, 1000


def scrape(port: int, encoding: str) -> tuple[float, int]:
    """Seconds from the request's first byte to the answer's last, and how many series there were."""
    connection = HTTPConnection("127.0.0.1", port)
    connection.connect()
    started = time.perf_counter()
    connection.request("GET", "/metrics", headers={"Accept-Encoding": encoding})
    body = connection.getresponse().read()
    seconds = time.perf_counter() - started
    connection.close()
    text = gzip.decompress(body) if encoding == "gzip" else body
    return seconds, text.count(b"\nkafka_consumergroup_lag{")


class Poll:
    """What a cycle costs the interpreter, without a broker that has to be waited for."""

    def __init__(self, publication: Publication) -> None:
        self.cycles = 0
        self._publication = publication
        self._answer = self._encoded()
        self._blocks = [
            Block(KE_LAG, [(f"group-{g:03}", "bench.topic", str(p)) for p in range(EACH)]) for g in range(GROUPS)
        ]
        self._clock = SystemClock()

    def once(self) -> None:
        self._publication.publish("bench", self._readings())
        self.cycles += 1

    def _readings(self) -> Iterator[Reading]:
        answer = OffsetFetchResponse.decode(self._answer, version=8)
        now = self._clock.now()
        for group, block in zip(answer.groups, self._blocks, strict=True):
            (topic,) = group.topics
            commits = np.full(EACH, -1, np.int64)
            commits[[p.partition_index for p in topic.partitions]] = [p.committed_offset for p in topic.partitions]
            yield Bulk(block, (1_000_000 - commits).tolist(), now)

    @staticmethod
    def _encoded() -> bytes:
        group = OffsetFetchResponse.OffsetFetchResponseGroup
        topic, partition = (
            group.OffsetFetchResponseTopics,
            group.OffsetFetchResponseTopics.OffsetFetchResponsePartitions,
        )
        committed = [
            partition(partition_index=p, committed_offset=p * 31, committed_leader_epoch=0, metadata="", error_code=0)
            for p in range(EACH)
        ]
        groups = [
            group(group_id=f"group-{g:03}", topics=[topic(name="bench.topic", partitions=committed)], error_code=0)
            for g in range(GROUPS)
        ]
        answer = OffsetFetchResponse(throttle_time_ms=0, groups=groups, version=8)
        encoded: bytes = answer.encode()
        return encoded


def plain_client() -> float:
    """prometheus-client's own rendering of as many series."""
    registry = CollectorRegistry()
    gauge = Gauge(KE_LAG.name, KE_LAG.help, KE_LAG.labels, registry=registry)
    for g in range(GROUPS):
        for p in range(EACH):
            gauge.labels(f"group-{g:03}", "bench.topic", str(p)).set(p)
    started = time.perf_counter()
    generate_latest(registry)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scrapes", type=int, default=15)
    scrapes = parser.parse_args().scrapes
    registry = Registry("bench")
    exposition = Exposition(registry)
    poll = Poll(Publication(registry, exposition))
    poll.once()
    settle()
    over = threading.Event()
    with Probes("127.0.0.1", 0, exposition, list) as probes, ProcessPoolExecutor(1, get_context("spawn")) as client:
        client.submit(scrape, probes.port, "gzip").result()
        quiet = [client.submit(scrape, probes.port, "gzip").result()[0] for _ in range(scrapes)]
        polling = threading.Thread(target=lambda: [poll.once() for _ in iter(over.is_set, True)])
        polling.start()
        before, started = poll.cycles, time.perf_counter()
        times, series = zip(*(client.submit(scrape, probes.port, "gzip").result() for _ in range(scrapes)), strict=True)
        text = [client.submit(scrape, probes.port, "identity").result()[0] for _ in range(scrapes // 3 + 1)]
        cycles, lasted = poll.cycles - before, time.perf_counter() - started
        over.set()
        polling.join()
    report(
        Path(__file__).stem,
        {
            "series": min(series),
            "seconds": round(median(times), 4),
            "seconds_max": round(max(times), 4),
            "seconds_without_poll": round(median(quiet), 4),
            "seconds_plain_text": round(median(text), 4),
            "poll_s": round(lasted / max(cycles, 1), 3),
            "prometheus_client_s": round(plain_client(), 3),
        },
    )


if __name__ == "__main__":
    main()
