"""Runs each collector on its own schedule, in its own thread, so that one that hangs delays nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import datetime

from collectors.base import Collector, Reading, Unmeasured
from collectors.core.publication import Publication
from tidewatch.clock import Clock
from tidewatch.errors import TidewatchError
from tidewatch.telemetry.catalogue.collectors import DURATION, ERRORS, INTERVAL, LAST_SUCCESS
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.metrics import Registry

log = get_logger(__name__)

_WATCH_SECONDS = 0.25


class Job:
    """One collector's cycles: each ends with its picture published, also when it failed or hangs."""

    def __init__(
        self, collector: Collector, publication: Publication, registry: Registry, clock: Clock, timeout: float
    ) -> None:
        self.collector = collector
        self.ended = 0
        """Cycles that came to an end."""
        self._publication = publication
        self._registry = registry
        self._clock = clock
        self._timeout = timeout
        self._lock = threading.Lock()
        self._since: tuple[datetime, float] | None = None
        self._hung = False
        registry.counter(ERRORS).labels(collector.name)
        registry.gauge(INTERVAL).labels(collector.name).set(collector.interval)

    def cycle(self) -> None:
        """Collect once and publish. What it raises becomes Unmeasured."""
        started = self._clock.monotonic()
        with self._lock:
            self._since = self._clock.now(), started
        readings, failed = self._collected()
        with self._lock:
            self._since = None
            if self._hung:
                self._hung = False
                log.info("collector.recovered", collector=self.collector.name)
            self._publication.publish(self.collector.name, readings)
            self.ended += 1
        self._registry.gauge(DURATION).labels(self.collector.name).set(self._clock.monotonic() - started)
        if failed:
            self._registry.counter(ERRORS).labels(self.collector.name).inc()
        else:
            self._registry.gauge(LAST_SUCCESS).labels(self.collector.name).set(self._clock.now().timestamp())

    def check(self) -> None:
        """Called by a watcher: when the cycle under way takes too long, its last picture is no longer true."""
        with self._lock:
            if self._since is None or self._hung:
                return
            since, started = self._since
            if self._clock.monotonic() - started < self._timeout:
                return
            self._hung = True
            why = f"hung since {since:%Y-%m-%dT%H:%M:%SZ}"
            self._publication.publish(self.collector.name, [Unmeasured("everything", why, self._clock.now())])
        self._registry.counter(ERRORS).labels(self.collector.name).inc()
        log.error("collector.hung", collector=self.collector.name, since=since.isoformat())

    def _collected(self) -> tuple[Sequence[Reading], bool]:
        try:
            return list(self.collector.collect()), False
        except TidewatchError as error:
            log.warning("collector.failed", collector=self.collector.name, error=str(error))
            return [Unmeasured("everything", error.what, self._clock.now())], True
        except Exception as error:  # a collector's mistake must not end the others
            log.exception("collector.crashed", collector=self.collector.name)
            why = f"{type(error).__name__} in the collector, see its log"
            return [Unmeasured("everything", why, self._clock.now())], True


class Runner:
    """Starts on `start`, ends on `stop`; a hung collector's thread is left to the end of the process."""

    def __init__(self, jobs: Iterable[Job], clock: Clock) -> None:
        self._jobs = list(jobs)
        self._clock = clock
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for number, job in enumerate(self._jobs):
            # Spread over the interval, so that they do not take the processor from each other.
            phase = number / len(self._jobs)
            self._threads.append(threading.Thread(target=self._run, args=(job, phase), name=job.collector.name))
        self._threads.append(threading.Thread(target=self._watch, name="watch"))
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def stop(self, grace: float = 5.0) -> None:
        self._stop.set()
        deadline = self._clock.monotonic() + grace
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock.monotonic()))

    def problems(self) -> list[str]:
        """Why the process is not ready: collectors that never ended a cycle."""
        return [f"{job.collector.name}: no cycle has ended yet" for job in self._jobs if job.ended == 0]

    def _run(self, job: Job, phase: float) -> None:
        interval = job.collector.interval
        job.cycle()
        due = self._clock.monotonic() + interval * (1 + phase)
        while not self._stop.wait(max(0.0, due - self._clock.monotonic())):
            job.cycle()
            # A cycle that took longer than the interval skips the turns that it missed.
            missed = max(0, int((self._clock.monotonic() - due) // interval))
            due += interval * (1 + missed)

    def _watch(self) -> None:
        while not self._stop.wait(_WATCH_SECONDS):
            for job in self._jobs:
                job.check()
