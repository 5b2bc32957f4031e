"""The metrics of one lane, with its labels bound."""

from __future__ import annotations

from ingest.loader.effects import Trouble
from tidewatch.telemetry.catalogue import loader as catalogue
from tidewatch.telemetry.metrics import Registry


class Gauges:
    def __init__(self, registry: Registry, pipeline: str, topic: str) -> None:
        self._registry = registry
        self._pipeline = pipeline
        self._topic = topic
        self.rows = registry.counter(catalogue.ROWS).labels(topic)
        self.bytes = registry.counter(catalogue.BYTES).labels(topic)
        self.blocks = registry.counter(catalogue.BLOCKS).labels(topic)
        self.batch_rows = registry.histogram(catalogue.BATCH_ROWS).labels(topic)
        self.insert_seconds = registry.histogram(catalogue.INSERT_SECONDS).labels(topic)
        self.build_seconds = registry.histogram(catalogue.BUILD_SECONDS).labels(topic)
        self.commit_seconds = registry.histogram(catalogue.COMMIT_SECONDS).labels(topic)
        self.fetch_wait = registry.counter(catalogue.FETCH_WAIT).labels(topic)
        self.age = registry.histogram(catalogue.AGE).labels(topic)
        self.halted = registry.gauge(catalogue.HALTED).labels(topic)
        self.partitions = registry.gauge(catalogue.PARTITIONS).labels(topic)
        self.recovered = registry.counter(catalogue.RECOVERED).labels(topic)
        self.expired = registry.counter(catalogue.EXPIRED).labels(topic)
        self.window = registry.gauge(catalogue.WINDOW).labels(topic)
        self.last_insert = registry.gauge(catalogue.LAST_INSERT).labels(topic)
        for trouble in Trouble:
            self.circuit(trouble, is_open=False)

    def letters(self, error: str, count: int) -> None:
        self._registry.counter(catalogue.LETTERS).labels(self._pipeline, error).inc(count)

    def retry(self, trouble: Trouble) -> None:
        self._registry.counter(catalogue.RETRIES).labels(self._topic, trouble.value).inc()

    def circuit(self, trouble: Trouble, *, is_open: bool) -> None:
        self._registry.gauge(catalogue.CIRCUIT).labels(self._topic, trouble.value).set(int(is_open))

    def lag(self, partition: int, records: int) -> None:
        self._registry.gauge(catalogue.LAG).labels(self._topic, str(partition)).set(records)

    def forget(self, partition: int) -> None:
        """A partition that left is another loader's to report."""
        lag = self._registry.gauge(catalogue.LAG)
        if (self._topic, str(partition)) in lag._metrics:  # noqa: SLF001 — remove() warns of what is not there
            lag.remove(self._topic, str(partition))
