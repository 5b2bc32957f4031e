"""The loader process: a lane for each topic, each on its own threads, and their HTTP port."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ingest.ledger.ranges import DDL, RangeWriter
from ingest.loader.blocks import Identity
from ingest.loader.collector import Collector, Size
from ingest.loader.gauges import Gauges
from ingest.loader.insertion import Inserter
from ingest.loader.lane import Lane, Parts
from ingest.loader.letters import LetterWriter
from ingest.loader.membership import Membership
from ingest.loader.origin import Origin
from ingest.loader.policy import Policy
from ingest.loader.probe import probe
from ingest.loader.statements import MAX_SECONDS, Options, Statement, of_events, of_letters, options
from ingest.loader.warehouse import Warehouse
from tidewatch.clickhouse import ClickHouse
from tidewatch.clock import Clock, SystemClock
from tidewatch.errors import TidewatchError
from tidewatch.kafka.admin import KafkaAdmin
from tidewatch.settings import Settings
from tidewatch.spec import Spec
from tidewatch.telemetry.logs import get_logger
from tidewatch.telemetry.metrics import Registry
from tidewatch.telemetry.probes import Probes
from tidewatch.telemetry.traces import Tracing

_RETRY_SECONDS = 2.0

log = get_logger(__name__)


def group_of(topic: str) -> str:
    """The consumer group that loads a topic."""
    return f"tidewatch.loader.{topic}"


@dataclass(frozen=True, slots=True)
class Route:
    """A topic and the table that it is loaded into."""

    spec: Spec
    statement: Statement
    letters_topic: str | None
    """None for dead letters: they have none of their own."""


def routes_of(specs: Sequence[Spec], database: str) -> list[Route]:
    events = [Route(spec, of_events(spec, database), spec.dead_letters.topic) for spec in specs]
    letters = {spec.dead_letters.topic: Route(spec, of_letters(spec, database), None) for spec in specs}
    return [*events, *letters.values()]


class LoaderService:
    """`run` until `stop`. What is not there yet, a server or a topic, is waited for; `problems` says for what."""

    def __init__(self, settings: Settings, specs: Sequence[Spec], registry: Registry, clock: Clock) -> None:
        self._settings = settings
        self._routes = routes_of(specs, settings.clickhouse.database)
        self._registry = registry
        self._clock = clock
        self._stop = threading.Event()
        self._failure: TidewatchError | None = None
        self._lanes: dict[str, Lane] = {}
        self._waiting: dict[str, str] = {route.statement.topic: "starting" for route in self._routes}
        self._tracing = Tracing("loader", settings.telemetry)

    def stop(self) -> None:
        self._stop.set()
        for lane in list(self._lanes.values()):
            lane.stop()

    def retry(self, *, pardon: bool) -> None:
        """An operator's word to every lane; see Lane.retry."""
        for lane in list(self._lanes.values()):
            lane.retry(pardon=pardon)

    def problems(self) -> list[str]:
        lanes = {topic: lane.problem for topic, lane in self._lanes.items()}
        found = {**self._waiting, **lanes}
        return [f"{topic}: {problem}" for topic, problem in found.items() if problem is not None]

    def run(self) -> None:
        """Raises the error of the first lane that cannot go on, after all have ended."""
        prepared = self._prepare()
        if prepared is None:
            return
        clickhouse, ranges, found = prepared
        threads = [
            threading.Thread(target=partial(self._guarded, route, ranges, found), name=route.statement.topic)
            for route in self._routes
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ranges.close()
        clickhouse.close()
        self._tracing.close()
        if self._failure is not None:
            raise self._failure

    def _prepare(self) -> tuple[ClickHouse, RangeWriter, Options] | None:
        """Connect, see that this server deduplicates, and make the ledger's table. None when stopped meanwhile."""
        for _ in self._attempts():
            try:
                clickhouse = ClickHouse(self._settings.clickhouse)
                found = options(clickhouse)
                probe(clickhouse, self._routes[0].spec, found)
                clickhouse.command(DDL)
                return clickhouse, RangeWriter(clickhouse, self._registry), found
            except TidewatchError as error:
                if not error.retryable:
                    raise
                self._hinder(None, error)
        return None

    def _guarded(self, route: Route, ranges: RangeWriter, found: Options) -> None:
        topic = route.statement.topic
        try:
            for _ in self._attempts():
                try:
                    lane = self._open(route, ranges, found)
                except TidewatchError as error:
                    self._hinder(topic, error)
                    continue
                self._lanes[topic] = lane
                if self._stop.is_set():
                    lane.stop()
                try:
                    lane.run()
                except TidewatchError as error:
                    if not error.retryable:
                        raise
                    self._hinder(topic, error)
                    del self._lanes[topic]
        except TidewatchError as error:
            self._failure = self._failure or error
            self.stop()
        except Exception as error:  # the thread's boundary: a supervisor must see a failure, not a tidy end
            log.exception("loader.lane_broke", topic=topic)
            fix = "the log holds the traceback; the supervisor starts the loader again, and it goes on where it was"
            self._failure = self._failure or TidewatchError(
                f"the lane of {topic} broke: {type(error).__name__}: {error}", fix=fix
            )
            self.stop()

    def _open(self, route: Route, ranges: RangeWriter, found: Options) -> Lane:
        settings, statement, topic = self._settings, route.statement, route.statement.topic
        with KafkaAdmin(settings.kafka, client_id=f"tidewatch-loader-{settings.loader.instance}") as admin:
            topic_id = admin.topic(topic).topic_id
        group = group_of(topic)
        identity = Identity(settings.kafka.cluster, group, topic_id)
        gauges = Gauges(self._registry, route.spec.name, topic)
        clickhouse = ClickHouse(settings.clickhouse, timeout_seconds=MAX_SECONDS + 15)
        warehouse = Warehouse(clickhouse, statement, topic_id, found, self._clock)
        size = Size(settings.loader.batch_rows, settings.loader.batch_bytes, settings.loader.batch_seconds)
        self._waiting.pop(topic, None)
        return Lane(
            Parts(
                identity=identity,
                topic=topic,
                policy=self._policy(warehouse, statement),
                size=size,
                warehouse=warehouse,
                inserter=Inserter(
                    identity=identity,
                    topic=topic,
                    warehouse=warehouse,
                    ranges=ranges,
                    gauges=gauges,
                    tracing=self._tracing,
                    clock=self._clock,
                ),
                origin=Origin(settings.kafka, topic, topic_id, route.letters_topic, statement.frame),
                letters=self._letter_writer(route, topic_id),
                collector=Collector(statement.frame, size, self._clock),
                gauges=gauges,
                clock=self._clock,
                join=partial(Membership, settings.kafka, settings.loader, topic=topic, group=group, clock=self._clock),
            )
        )

    def _policy(self, warehouse: Warehouse, statement: Statement) -> Policy:
        loader = self._settings.loader
        return Policy(
            window=warehouse.tables.window,
            judge=statement.judge,
            deadline_seconds=loader.deadline_seconds,
            grace_seconds=MAX_SECONDS + 15,
            max_bad_share=loader.max_bad_share,
            min_bad=loader.min_bad,
        )

    def _letter_writer(self, route: Route, topic_id: str) -> LetterWriter | None:
        if route.letters_topic is None:
            return None
        topic = route.statement.topic
        return LetterWriter(
            self._settings.kafka,
            pipeline=route.spec.name,
            topic=topic,
            topic_id=topic_id,
            to=route.letters_topic,
            who=f"{group_of(topic)}.{self._settings.loader.instance}",
            clock=self._clock,
        )

    def _attempts(self) -> Iterator[int]:
        attempt = 0
        while not self._stop.is_set():
            yield attempt
            attempt += 1
            self._stop.wait(_RETRY_SECONDS)

    def _hinder(self, topic: str | None, error: TidewatchError) -> None:
        for name in [topic] if topic is not None else list(self._waiting):
            self._waiting[name] = error.what
        log.warning("loader.not_started", topic=topic, error=str(error), retry_in_s=_RETRY_SECONDS)


def run_loader(settings: Settings, specs: Sequence[Spec]) -> None:
    """The process behind `tidewatch loader`. SIGTERM and SIGINT let the inserts in flight end, then it ends.

    SIGUSR1 retries at once whatever waits; SIGUSR2 too, and lets the records that are mostly bad become letters.
    """
    registry = Registry("loader")
    service = LoaderService(settings, specs, registry, SystemClock())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    signal.signal(signal.SIGUSR1, lambda *_: service.retry(pardon=False))
    signal.signal(signal.SIGUSR2, lambda *_: service.retry(pardon=True))
    with Probes(settings.loader.host, settings.loader.port, registry, service.problems) as probes:
        log.info("loader.started", port=probes.port, instance=settings.loader.instance)
        service.run()
    log.info("loader.stopped")
