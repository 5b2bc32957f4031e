"""The relay process: one thread for each outbox pipeline, one that measures and purges, and the probes."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

from sqlalchemy import Engine

from ingest.outbox.claims import SqlClaims, purge, waiting
from ingest.outbox.log import KafkaLog
from ingest.outbox.relay import RelayLoop
from ingest.outbox.steps import Relay
from ingest.outbox.tables import prepare
from tidewatch.clock import Clock, SystemClock
from tidewatch.errors import TidewatchError, UsageError
from tidewatch.settings import Settings
from tidewatch.spec import Spec, Specs
from tidewatch.sql import open_store
from tidewatch.telemetry.catalogue.outbox import AGE, PURGED, WAITING
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.metrics import Registry
from tidewatch.telemetry.probes import Probes
from tidewatch.telemetry.traces import Tracing

_MEASURE_SECONDS = 1.0
_PURGE_EVERY = 60

log = get_logger(__name__)


def outbox_pipelines(specs: Specs) -> list[Spec]:
    return [spec for spec in specs.values() if spec.source.kind == "outbox"]


class RelayService:
    """Runs until `stop`, or until one relay ends for good: then all end, and `run` raises its error."""

    def __init__(self, settings: Settings, specs: Sequence[Spec], registry: Registry, clock: Clock) -> None:
        self._settings = settings
        self._specs = specs
        self._registry = registry
        self._clock = clock
        self._stop = threading.Event()
        self._failure: TidewatchError | None = None
        self._loops: list[RelayLoop] = []

    def stop(self) -> None:
        self._stop.set()

    def problems(self) -> list[str]:
        if not self._loops:
            return ["starting"]
        return [f"{loop.pipeline}: {loop.problem}" for loop in self._loops if loop.problem is not None]

    def run(self) -> None:
        engine = open_store(self._settings.store)
        prepare(engine)
        tracing = Tracing("outbox-relay", self._settings.telemetry)
        logs = [KafkaLog(self._settings.kafka, spec.name, spec.topic.name, tracing) for spec in self._specs]
        holder = f"{socket.gethostname()}:{os.getpid()}"
        for spec, kafka in zip(self._specs, logs, strict=True):
            claims = SqlClaims(engine, spec.name, holder, self._clock)
            self._loops.append(RelayLoop(spec.name, Relay(claims, kafka), self._registry, self._clock))
        threads = [self._thread(loop.pipeline, partial(loop.run, self._stop)) for loop in self._loops]
        threads.append(self._thread("measure", partial(self._measure, engine)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for kafka in logs:
            kafka.close()
        tracing.close()
        engine.dispose()
        if self._failure is not None:
            raise self._failure

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except TidewatchError as error:
                self._failure = self._failure or error
            except Exception as error:  # the thread's boundary: a supervisor must see a failure, not a tidy end
                log.exception("outbox.thread_broke", thread=name)
                fix = "the log holds the traceback; the supervisor starts the relay again, and it goes on where it was"
                self._failure = self._failure or TidewatchError(
                    f"{name} broke: {type(error).__name__}: {error}", fix=fix
                )
            finally:
                self._stop.set()

        return threading.Thread(target=guarded, name=f"outbox-{name}")

    def _measure(self, engine: Engine) -> None:
        """The store being away shows in the relay's own metric; here it only leaves the last values standing."""
        keep = timedelta(days=self._settings.relay.keep_sent_days)
        turns = 0
        while not self._stop.wait(_MEASURE_SECONDS):
            try:
                for spec in self._specs:
                    self._set(spec.name, engine)
                if turns % _PURGE_EVERY == 0:
                    self._registry.counter(PURGED).inc(purge(engine, self._clock.now() - keep))
                turns += 1
            except TidewatchError as error:
                log.warning("outbox.not_measured", error=str(error))

    def _set(self, pipeline: str, engine: Engine) -> None:
        count, oldest = waiting(engine, pipeline)
        age = (self._clock.now() - oldest).total_seconds() if oldest is not None else 0.0
        self._registry.gauge(WAITING).labels(pipeline).set(count)
        self._registry.gauge(AGE).labels(pipeline).set(max(0.0, age))


def run_relay(settings: Settings, specs: Sequence[Spec]) -> None:
    """The process behind `tidewatch outbox relay`: SIGTERM and SIGINT let the batch under way end, then it ends."""
    if not specs:
        raise UsageError("no pipeline has an outbox", fix="give a pipeline `source: {kind: outbox, …}`")
    registry = Registry("outbox-relay")
    service = RelayService(settings, specs, registry, SystemClock())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    with Probes(settings.relay.host, settings.relay.port, registry, service.problems) as probes:
        log.info("outbox.started", port=probes.port, pipelines=[spec.name for spec in specs])
        service.run()
    log.info("outbox.stopped")
