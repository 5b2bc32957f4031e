"""One topic's way into its table: carries out what its course asks for (effects.py), on two threads.

The polling thread runs the course, polls, and alone commits. The worker talks to ClickHouse and reads the log again
where that is needed. While one block is being inserted the next is fetched and built.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError as ConfluentError
from confluent_kafka import Message

from ingest.loader import effects as e
from ingest.loader.blocks import Identity
from ingest.loader.collector import Collector, Size
from ingest.loader.gauges import Gauges
from ingest.loader.insertion import Inserter
from ingest.loader.intents import NewerIntent
from ingest.loader.letters import LetterWriter
from ingest.loader.membership import Membership
from ingest.loader.origin import Origin
from ingest.loader.policy import Policy
from ingest.loader.recovery import Loading
from ingest.loader.tenure import Tenure
from ingest.loader.warehouse import Warehouse
from tidewatch.clock import Clock
from tidewatch.errors import TidewatchError
from tidewatch.telemetry.logs import get_logger

STOP_SECONDS = 5.0
_REPORT_SECONDS = 2.0
_OUT_OF_RANGE = ConfluentError._AUTO_OFFSET_RESET  # noqa: SLF001 — public, whatever its underscore says

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a lane is made of. `join` makes its member of the group, given the lane's three callbacks."""

    identity: Identity
    topic: str
    policy: Policy
    size: Size
    warehouse: Warehouse
    inserter: Inserter
    origin: Origin
    letters: LetterWriter | None
    collector: Collector
    gauges: Gauges
    clock: Clock
    join: Callable[..., Membership]


class _Stopped(Exception):
    """The lane is asked to end, and does not wait any longer."""


class Lane:
    """`run` on a thread of its own; `stop` from any."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._clock = parts.clock
        self._gauges = parts.gauges
        self._collector = parts.collector
        self._course = Loading(parts.identity, parts.policy)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"worker-{parts.topic}")
        self._member: Membership | None = None
        self._tenure = Tenure(parts.topic, self._course.holdings, self._collector, self._gauges, self._commit)
        self._stopping = threading.Event()
        self._report_at = 0.0
        self._stop_by: float | None = None
        self._pardon = threading.Event()
        self._nudge = threading.Event()
        self._stopped_inserting = False
        self.problem: str | None = "starting"
        """What stands in the way of loading, None while nothing does."""
        self.halted = False

    @property
    def topic(self) -> str:
        return self._parts.topic

    def stop(self) -> None:
        self._stopping.set()
        self._nudge.set()

    def retry(self, *, pardon: bool = False) -> None:
        """An operator's word: try again now. With `pardon`, what is bad is dead-lettered however much it is."""
        if pardon:
            self._pardon.set()
        self._nudge.set()

    def run(self) -> None:
        """Until `stop`. Raises TidewatchError when this lane cannot go on; a halted lane waits for `stop`."""
        self._member = self._parts.join(
            assigned=self._tenure.assigned, revoked=self._tenure.revoked, lost=self._tenure.lost
        )
        self._tenure.member = self._member
        flow = self._course.run()
        try:
            self._member.join()
            effect = next(flow)
            while True:
                effect = flow.send(self._carry_out(effect))
        except _Stopped:
            self._finish()
        except NewerIntent as error:
            self._halt(f"{error}: a newer loader wrote it; start that version again")
        finally:
            flow.close()
            self._worker.shutdown(wait=False, cancel_futures=True)
            self._member.leave()
            if self._parts.letters is not None:
                self._parts.letters.close()

    # -- effects

    def _carry_out(self, effect: e.Effect) -> Any:
        match effect:
            case e.Next():
                return self._next()
            case e.Commit():
                return self._commit(effect)
            case e.Insert():
                return self._insert(effect)
            case e.FindBad(block):
                return self._ask(lambda: self._parts.warehouse.find_bad(block))
            case e.Bury():
                return self._bury(effect)
            case e.ReadCommitted(partitions):
                return self._membership.committed(partitions)
            case e.Rebuild(ranges):
                log.info("loader.rebuilding", topic=self.topic, ranges=ranges)
                return self._ask(lambda: self._parts.origin.rebuild(ranges))
            case e.ReadLetters(letters, ranges):
                return self._ask(lambda: self._parts.origin.letters(letters, ranges))
            case e.Missing(block):
                return self._ask(lambda: self._parts.warehouse.missing(block))
            case e.Measure(fresh):
                return self._ask(lambda: self._parts.warehouse.measure(fresh=fresh))
            case e.HaveRows(positions):
                return self._ask(lambda: self._parts.warehouse.have_rows(positions))
            case e.RebuildAggregates(block):
                return self._ask(lambda: self._parts.warehouse.check_aggregates(block))
            case e.Wait():
                return self._wait(effect)
            case e.Rewind():
                self._collector.clear()
                return self._membership.read_from(self._course.holdings.readable)
            case e.Resume(partitions):
                self._gauges.recovered.inc()
                readable = self._course.holdings.readable
                return self._membership.read_from({p: readable[p] for p in partitions if p in readable})
            case e.Halt(message):
                return self._halt(message)

    def _next(self) -> e.Batch | None:
        started = self._clock.monotonic()
        if not self._stopped_inserting:
            self.problem = None
        idle = started + self._parts.size.seconds
        while not self._collector.ripe:
            if self._stopping.is_set():
                raise _Stopped
            if self._course.holdings.blocked:
                return None
            if not self._collector and self._clock.monotonic() > idle:
                self._gauges.fetch_wait.inc(self._clock.monotonic() - started)
                return None
            self._collect(min(0.1, self._parts.size.seconds))
        self._gauges.fetch_wait.inc(self._clock.monotonic() - started)
        return self._collector.take()

    def _commit(self, commit: e.Commit) -> e.CommitResult:
        started = self._clock.monotonic()
        result = self._membership.commit(commit.offsets)
        self._gauges.commit_seconds.observe(self._clock.monotonic() - started)
        if result is e.CommitResult.DONE:
            self._parts.inserter.closed(commit.closes)
        return result

    def _insert(self, insert: e.Insert) -> Any:
        gone = {r.partition: self._tenure.expired.pop(r.partition, 0) for r in insert.block.ranges}
        self._parts.inserter.count_lost(insert.block, gone)
        future = self._worker.submit(self._parts.inserter.insert, insert)
        self._tenure.in_flight = (insert, future)
        self._gauges.window.set(self._course.window_used)
        try:
            answer = self._wait_for(future, gather=True)
        finally:
            self._tenure.in_flight = None
        if isinstance(answer, e.Landed):
            self._well()
        return answer

    def _bury(self, bury: e.Bury) -> Any:
        if self._parts.letters is None:
            return e.CommitResult.AGAIN, ()
        found = self._ask(lambda: self._parts.origin.messages([bad.position for bad in bury.bad]))
        if isinstance(found, e.Failed):
            return e.CommitResult.AGAIN, ()
        mine = self._course.holdings.claimed(bury.block.claims)
        if any(bad.position[0] not in mine for bad in bury.bad):
            return e.CommitResult.AGAIN, ()  # a partition left while its records were read
        # What retention took in between is still in the block, without its key.
        records = [(bad, found.get(bad.position) or bury.block.rows.kept(bad.position)) for bad in bury.bad]
        result, letters = self._parts.letters.write(records, bury.offsets, self._membership.group())
        if result is e.CommitResult.DONE:
            for bad, _ in records:
                self._gauges.letters(bad.error, 1)
            log.info("loader.dead_lettered", topic=self.topic, letters=len(records), first=records[0][0].message)
        return result, letters

    def _wait(self, effect: e.Wait) -> None:
        self._gauges.retry(effect.trouble)
        self._gauges.circuit(effect.trouble, is_open=True)
        self._stopped_inserting = True
        self.problem = f"{effect.trouble.value}: {effect.message}"
        log.warning(
            "loader.waiting", topic=self.topic, trouble=effect.trouble.value, why=effect.message, s=effect.seconds
        )
        until = self._clock.monotonic() + effect.seconds
        self._membership.hold(self._course.holdings.readable)
        while self._clock.monotonic() < until and not self._nudge.is_set():
            self._poll(min(0.2, max(0.0, until - self._clock.monotonic())))
        if self._stopping.is_set():
            raise _Stopped
        self._nudge.clear()
        if self._pardon.is_set():
            self._pardon.clear()
            self._course.tally.pardon()
        self._membership.unhold(self._course.holdings.readable)

    def _halt(self, message: str) -> None:
        """Keep the partitions, so that nobody else walks into the same, and wait for an operator."""
        self.halted = True
        self.problem = f"halted: {message}"
        self._gauges.halted.set(1)
        log.error("loader.halted", topic=self.topic, why=message)
        self._membership.hold(self._course.holdings.held)
        while not self._stopping.is_set():
            self._poll(0.2)
        raise _Stopped

    # -- waiting and polling

    def _ask(self, question: Callable[[], Any]) -> Any:
        return self._wait_for(self._worker.submit(question), gather=False)

    def _wait_for(self, future: Future[Any], *, gather: bool) -> Any:
        """The worker's answer; meanwhile the next block is collected, or at least the group is kept happy."""
        idle_since = self._clock.monotonic()
        held = False
        while not future.done():
            if self._stopping.is_set():
                self._stop_by = self._stop_by or self._clock.monotonic() + STOP_SECONDS
                wait([future], self._stop_by - self._clock.monotonic())
                if not future.done():
                    raise _Stopped
            elif gather and self._collector.room:
                self._collect(0.02)
                idle_since = self._clock.monotonic()
            elif self._clock.monotonic() - idle_since > 1.0:
                if not held:
                    self._membership.hold(self._course.holdings.readable)
                    held = True
                self._poll(0.1)
            else:
                wait([future], 0.25)
        if held:
            self._membership.unhold(self._course.holdings.readable)
        return future.result()

    def _collect(self, seconds: float) -> None:
        now = self._clock.monotonic()
        if now >= self._report_at:
            self._report_at = now + _REPORT_SECONDS
            self._tenure.report_lag()
        self._take(self._membership.consume(min(self._collector.room, 10_000), seconds))

    def _poll(self, seconds: float) -> None:
        """With everything on hold; what still comes was under way."""
        self._take(self._membership.consume(1, seconds))

    def _take(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        good = [m for m in messages if m.error() is None]
        readable = self._course.holdings.readable
        if len(good) != len(messages):
            for message in messages:
                error = message.error()
                if error is not None:
                    self._on_error(error, message.partition())
        # Nothing of a partition that is not settled, or not ours any more, may slip in.
        if any(m.partition() not in readable for m in (good[:1] + good[-1:])):
            good = [m for m in good if m.partition() in readable]
        self._collector.add(good)

    def _on_error(self, error: ConfluentError, partition: int | None) -> None:
        if error.code() == _OUT_OF_RANGE and partition is not None:
            truncated = self._tenure.overtaken(partition)
            if truncated:
                self._halt(truncated)
            return
        translated = self._membership.explain(error)
        if not translated.retryable:
            self.problem = translated.what
        log.warning("loader.kafka", topic=self.topic, partition=partition, error=translated.what)

    # -- ends

    def _finish(self) -> None:
        """What has landed becomes final; what has not stays announced, for whoever comes next."""
        commit = self._course.holdings.final_commit()
        if commit is not None:
            try:
                self._commit(commit)
            except TidewatchError as error:
                log.warning("loader.not_finalised", topic=self.topic, error=str(error))

    def _well(self) -> None:
        if self._stopped_inserting:
            self._stopped_inserting = False
            for trouble in e.Trouble:
                self._gauges.circuit(trouble, is_open=False)
            log.info("loader.well_again", topic=self.topic)
        self.problem = None

    @property
    def _membership(self) -> Membership:
        if self._member is None:
            raise AssertionError("the lane has not joined its group yet")
        return self._member
