"""A broker with many partitions and many groups that have committed, for the benchmarks of the collectors."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from devstack.kafka import KafkaCluster

_RECORDS = 2
_PATIENCE = 120.0


@contextmanager
def groups_on_a_broker(partitions: int, groups: int, each: int, topics: int = 10) -> Iterator[str]:
    """`groups` groups, each with commits on `each` of the partitions: on one to all topics. Gives the bootstrap."""
    with tempfile.TemporaryDirectory(prefix="tidewatch-bench-") as directory:
        cluster = KafkaCluster(Path(directory), heap="1g", config={"offsets.topic.num.partitions": "16"})
        with cluster:
            names = _topics(cluster.bootstrap, partitions, topics)
            _fill(cluster.bootstrap, names, partitions // topics)
            with ThreadPoolExecutor(4) as pool:
                everything = [TopicPartition(t, p) for t in names for p in range(partitions // topics)]
                list(pool.map(lambda n: _commit(cluster.bootstrap, everything, n, each), range(groups)))
            yield cluster.bootstrap


def _topics(bootstrap: str, partitions: int, topics: int) -> list[str]:
    names = [f"bench.{number}" for number in range(topics)]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for name in names:
        admin.create_topics([NewTopic(name, partitions // topics, 1)], request_timeout=_PATIENCE)[name].result(
            _PATIENCE
        )
    deadline = time.monotonic() + _PATIENCE
    while sum(len(t.partitions) for t in admin.list_topics(timeout=_PATIENCE).topics.values()) < partitions:
        if time.monotonic() > deadline:
            raise RuntimeError("the broker did not make the partitions")
        time.sleep(0.5)
    return names


def _fill(bootstrap: str, names: list[str], width: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 1_000_000})
    for name in names:
        for number in range(width):
            for _ in range(_RECORDS):
                producer.produce(name, b"x", partition=number)
        if producer.flush(_PATIENCE):
            raise RuntimeError("the broker did not take the records")


def _commit(bootstrap: str, everything: list[TopicPartition], number: int, each: int) -> None:
    rng = random.Random(number)
    start = number * each % len(everything)
    mine = (everything + everything)[start : start + each]
    offsets = [TopicPartition(p.topic, p.partition, rng.randint(0, _RECORDS)) for p in mine]
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"bench-{number:03}"})
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()
