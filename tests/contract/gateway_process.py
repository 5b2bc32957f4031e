"""`tidewatch gateway` as a process, over a real Kafka, with topics of its own."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx
import yaml
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from devstack.ports import free_port
from devstack.process import Child
from ingest.gateway import keys
from tidewatch.kafka.client import consumer_config
from tidewatch.settings import Kafka
from tidewatch.spec import Specs, load_all

PIPELINES = Path(__file__).parents[2] / "pipelines"


class GatewayProcess:
    """`specs` are the project's own, with topics that end in `suffix`."""

    def __init__(self, directory: Path, bootstrap: str, suffix: str, **settings: str) -> None:
        self.directory = directory
        self.bootstrap = bootstrap
        self.specs = _fresh_specs(directory / "pipelines", suffix)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.keys_file = directory / "keys.yaml"
        self.key, _ = keys.create(self.keys_file, "shop")
        environment = {
            "TIDEWATCH_KAFKA__BOOTSTRAP": bootstrap,
            "TIDEWATCH_PIPELINES": str(directory / "pipelines"),
            "TIDEWATCH_GATEWAY__PORT": str(self.port),
            "TIDEWATCH_GATEWAY__KEYS_FILE": str(self.keys_file),
            "TIDEWATCH_STORE__URL": f"sqlite:///{directory / 'store.db'}",
        } | {f"TIDEWATCH_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "controlplane.cli.main", "gateway"]
        self.child = Child("gateway", command, log=directory / "gateway.log", env=environment)
        self._exits = ExitStack()

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}", "content-type": "application/json"}

    def make_topics(self) -> Self:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        topics = [
            NewTopic(name, partitions, 1)
            for spec in self.specs.values()
            for name, partitions in ((spec.topic.name, spec.topic.partitions), (spec.dead_letters.topic, 1))
        ]
        for made in admin.create_topics(topics).values():
            try:
                made.result()
            except KafkaException as error:
                if "already exists" not in str(error):
                    raise
        return self

    def start(self, *, ready: str = "/readyz") -> Self:
        self.child.start()
        self.child.wait_ready(lambda: self._answers(ready))
        self.client = self._exits.enter_context(httpx.Client(base_url=self.url, headers=self.headers, timeout=60))
        return self

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._exits.close()
        self.child.stop()

    def path(self, pipeline: str) -> str:
        path = self.specs[pipeline].source.path
        assert path
        return path

    def records(self, topic: str) -> list[tuple[bytes, dict[str, bytes]]]:
        """(value, headers) of everything in `topic`, as a reader of committed records sees it."""
        consumer = Consumer(consumer_config(Kafka(bootstrap=self.bootstrap), "reader", f"reader-{os.urandom(4).hex()}"))
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            found = []
            for number in partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
                consumer.assign([TopicPartition(topic, number, low)])
                while low < high:
                    for message in consumer.consume(min(1000, high - low), timeout=5):
                        assert message.error() is None
                        found.append((message.value() or b"", dict(message.headers() or [])))
                        low += 1
            return found
        finally:
            consumer.close()


def _fresh_specs(directory: Path, suffix: str) -> Specs:
    directory.mkdir(parents=True)
    for path in PIPELINES.glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())
        spec["topic"]["name"] += f".{suffix}"
        spec["dead_letters"]["topic"] += f".{suffix}"
        (directory / path.name).write_text(yaml.safe_dump(spec))
    return load_all(directory)
