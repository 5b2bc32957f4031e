"""Drives the relay of one pipeline: step after step, with patience when Kafka or the store is away."""

from __future__ import annotations

import threading

from ingest.outbox.steps import Batch, Relay, State
from tidewatch.clock import Clock
from tidewatch.errors import Refused, TidewatchError
from tidewatch.telemetry.catalogue.outbox import BATCHES, EMIT_DELAY, EMITTED, RETRIES, UP
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.metrics import Registry

_POLL_SECONDS = 0.025
_SHORTEST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0

log = get_logger(__name__)


class RelayLoop:
    """`run` returns when `stop` is set; what it raises is final and asks for a person."""

    def __init__(self, pipeline: str, relay: Relay, registry: Registry, clock: Clock) -> None:
        self.pipeline = pipeline
        self._relay = relay
        self._clock = clock
        self._emitted = registry.counter(EMITTED).labels(pipeline)
        self._batches = registry.counter(BATCHES).labels(pipeline)
        self._delay = registry.histogram(EMIT_DELAY).labels(pipeline)
        self._retries = registry.counter(RETRIES).labels(pipeline)
        self._up = registry.gauge(UP).labels(pipeline)
        self.problem: str | None = "starting"

    def run(self, stop: threading.Event) -> None:
        """Raises RelayFenced when another relay took over, Refused when it cannot go on without risking a double."""
        backoff = 0.0
        while not stop.is_set():
            try:
                if backoff:
                    self._relay.lost()
                idle = self._step()
                backoff = 0.0
            except Refused:
                self._up.set(0)
                raise
            except TidewatchError as error:
                backoff = min(max(backoff * 2, _SHORTEST_BACKOFF), _LONGEST_BACKOFF)
                self._wait_out(error, backoff)
                stop.wait(backoff)
                continue
            if idle:
                stop.wait(_POLL_SECONDS)
        self._up.set(0)

    def _step(self) -> bool:
        """Whether there was nothing to do."""
        before = self._relay.state
        sent = self._relay.step()
        if sent is not None:
            self._count(sent)
        ready = self._relay.state in (State.READY, State.CLAIMED, State.SENT)
        if ready and self.problem is not None:
            log.info("outbox.relaying", pipeline=self.pipeline)
            self.problem = None
            self._up.set(1)
        return before is State.READY and self._relay.state is State.READY

    def _count(self, sent: Batch) -> None:
        now = self._clock.now()
        for row in sent.rows:
            self._delay.observe(max(0.0, (now - row.created_at).total_seconds()))
        self._emitted.inc(len(sent.rows))
        self._batches.inc()
        log.debug("outbox.emitted", pipeline=self.pipeline, batch=sent.mark.batch, rows=len(sent.rows))

    def _wait_out(self, error: TidewatchError, backoff: float) -> None:
        self.problem = str(error)
        self._up.set(0)
        self._retries.inc()
        log.warning("outbox.waiting", pipeline=self.pipeline, error=str(error), retry_in_s=backoff)
