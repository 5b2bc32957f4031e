"""The runner and what it publishes: nothing guessed, nothing stale, nobody waits for a collector that hangs."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from http.client import HTTPConnection
from operator import add

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collectors.base import Bulk, Context, Reading, Sample, Unmeasured, build, builders
from collectors.core.publication import Publication
from collectors.core.runner import Job, Runner
from tidewatch.clock import Clock, ManualClock, SystemClock
from tidewatch.errors import KafkaUnavailable, UsageError
from tidewatch.settings import Settings
from tidewatch.spec import Specs
from tidewatch.telemetry.deflated import Deflated
from tidewatch.telemetry.exposition import Block, Exposition
from tidewatch.telemetry.metrics import Metric, Registry
from tidewatch.telemetry.probes import Probes

DEPTH = Metric("tidewatch_test_depth", "gauge", "How deep.", ("place",))
SEEN = Metric("tidewatch_test_seen_total", "counter", "How often.", ("place",))
NOW = ManualClock().now()


@dataclass
class Fake:
    """A collector that does what it is told."""

    work: Callable[[], Iterable[Reading]]
    name: str = "fake"
    interval: float = 0.01

    def collect(self) -> Iterable[Reading]:
        return self.work()


class World:
    def __init__(self, clock: Clock | None = None, timeout: float = 20) -> None:
        self.clock = clock or ManualClock()
        self.timeout = timeout
        self.registry = Registry("test")
        self.exposition = Exposition(self.registry)
        self.publication = Publication(self.registry, self.exposition)

    def job(self, work: Callable[[], Iterable[Reading]], name: str = "fake") -> Job:
        return Job(Fake(work, name), self.publication, self.registry, self.clock, self.timeout)

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """Label values (in the order of the label's name) → value, parsed from what a scrape would read."""
        families = text_string_to_metric_families(self.exposition.expose().decode())
        found = [sample for family in families for sample in family.samples if sample.name == name]
        return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in found}


def _get(address: tuple[str, int], headers: dict[str, str]) -> tuple[bytes, str | None]:
    connection = HTTPConnection(*address)
    connection.request("GET", "/metrics", headers=headers)
    answer = connection.getresponse()
    try:
        return answer.read(), answer.getheader("Content-Encoding")
    finally:
        connection.close()


@pytest.fixture
def world() -> World:
    return World()


def test_a_cycle_replaces_the_whole_picture(world: World) -> None:
    pictures = iter([[Sample(DEPTH, ("a",), 1, NOW), Sample(DEPTH, ("b",), 2, NOW)], [Sample(DEPTH, ("b",), 3, NOW)]])
    job = world.job(lambda: next(pictures))
    job.cycle()
    assert world.values(DEPTH.name) == {("a",): 1, ("b",): 2}
    job.cycle()
    assert world.values(DEPTH.name) == {("b",): 3}, "a series that is not reported any more disappears"


def test_counters_and_bulk_families_stand_beside_gauges(world: World) -> None:
    block = Block(DEPTH, [('quote " slash \\ line \n',), ("100%",)])
    world.job(lambda: [Sample(SEEN, ("a",), 7, NOW), Bulk(block, [4, 5], NOW)]).cycle()
    assert world.values(SEEN.name) == {("a",): 7}
    assert world.values(DEPTH.name) == {('quote " slash \\ line \n',): 4, ("100%",): 5}
    assert world.values("tidewatch_collector_series") == {("fake",): 3}


def test_values_that_are_not_whole_keep_their_digits() -> None:
    block = Block(DEPTH, [("a",), ("b",)], whole=False)
    assert block.render([0.25, float("inf")]) == (
        b'tidewatch_test_depth{place="a"} 0.25\ntidewatch_test_depth{place="b"} inf\n'
    )
    with pytest.raises(ValueError, match="1 values for 2 series"):
        block.render([1])


def test_what_fails_is_unmeasured_with_the_reason_and_its_old_series_are_gone(world: World) -> None:
    answers: list[Reading] = [Sample(DEPTH, ("a",), 1, NOW), Bulk(Block(DEPTH, [("b",)]), [1], NOW)]

    def work() -> Iterator[Reading]:
        if not answers:
            raise KafkaUnavailable("no broker answered", fix="start one")
        while answers:
            yield answers.pop()

    job = world.job(work)
    job.cycle()
    succeeded = world.values("tidewatch_collector_last_success_timestamp_seconds")
    assert isinstance(world.clock, ManualClock)
    world.clock.advance(30)
    job.cycle()
    assert world.values(DEPTH.name) == {}
    assert world.values("tidewatch_unmeasured") == {("fake", "no broker answered", "everything"): 1}
    assert world.values("tidewatch_collector_errors_total") == {("fake",): 1}
    assert world.values("tidewatch_collector_last_success_timestamp_seconds") == succeeded


def test_a_mistake_in_a_collector_is_named_and_does_not_end_it(world: World) -> None:
    job = world.job(lambda: [Sample(DEPTH, ("a",), 1 / len(threading.enumerate()[0:0]), NOW)])
    job.cycle()
    assert world.values("tidewatch_unmeasured") == {
        ("fake", "ZeroDivisionError in the collector, see its log", "everything"): 1
    }


def test_a_part_that_is_unmeasured_leaves_the_others(world: World) -> None:
    world.job(lambda: [Sample(DEPTH, ("a",), 1, NOW), *[Unmeasured("group b", "not authorised", NOW)] * 2]).cycle()
    assert world.values(DEPTH.name) == {("a",): 1}
    assert world.values("tidewatch_unmeasured") == {("fake", "not authorised", "group b"): 1}


def test_a_flood_of_the_unmeasured_is_counted_rather_than_listed(world: World) -> None:
    world.job(lambda: [Unmeasured(f"group {i}", "away", NOW) for i in range(250)]).cycle()
    assert len(world.values("tidewatch_unmeasured")) == 200
    assert world.values("tidewatch_unmeasured_left_out") == {("fake",): 50}


def test_one_that_hangs_shows_since_when_and_the_others_go_on() -> None:
    world = World(SystemClock(), timeout=0.05)
    release, turns = threading.Event(), threading.Semaphore(0)

    def hang() -> Iterator[Reading]:
        yield Sample(DEPTH, ("late",), 1, NOW)
        assert release.wait(30)

    def go() -> list[Reading]:
        turns.release()
        return [Sample(SEEN, ("alive",), 1, NOW)]

    jobs = [world.job(hang, "hanging"), world.job(go, "going")]
    runner = Runner(jobs, world.clock)
    runner.start()
    try:
        while not world.values("tidewatch_unmeasured"):
            assert turns.acquire(timeout=30), "the other goes on"
        ((name, why, source),) = world.values("tidewatch_unmeasured")
        assert (name, source, why[:11]) == ("hanging", "everything", "hung since ")
        assert runner.problems() == ["hanging: no cycle has ended yet"]
        assert world.values(SEEN.name) == {("alive",): 1}
        release.set()
        while not world.values(DEPTH.name):
            assert turns.acquire(timeout=30)
        assert world.values("tidewatch_unmeasured") == {}
        assert runner.problems() == []
    finally:
        release.set()
        runner.stop()


def test_a_scrape_may_ask_for_gzip(world: World) -> None:
    world.job(lambda: [Bulk(Block(DEPTH, [(str(i),) for i in range(1000)]), range(1000), NOW)]).cycle()
    with Probes("127.0.0.1", 0, world.exposition, list) as probes:
        address = ("127.0.0.1", probes.port)
        text, _ = _get(address, {})
        packed, encoding = _get(address, {"Accept-Encoding": "gzip"})
    assert encoding == "gzip"
    assert len(packed) < len(text) / 4
    lines = [line for line in text.decode().splitlines() if line.startswith(DEPTH.name)]
    assert lines == [line for line in gzip.decompress(packed).decode().splitlines() if line.startswith(DEPTH.name)]
    assert len(lines) == 1000


def test_every_module_is_a_collector() -> None:
    names = list(builders())
    assert "base" not in names
    context = Context(Settings(), Specs({}))
    with pytest.raises(UsageError, match="there is no collector nonsense"):
        build(context, ["nonsense"])


def test_what_collectors_share_is_made_once_and_closed() -> None:
    closed = []

    class Client:
        def close(self) -> None:
            closed.append(self)

    def client(_: Context) -> Client:
        return Client()

    context = Context(Settings(), Specs({}))
    one = context.shared(client)
    assert context.shared(client) is one
    context.close()
    assert closed == [one]


@pytest.mark.parametrize("pieces", [[], [b""], [b"a"], [b"x" * 100_000, b"", b"tail"], [bytes(range(256)) * 999] * 5])
def test_compressed_pieces_join_into_one_member_that_any_client_reads(pieces: list[bytes]) -> None:
    joined = reduce(add, [Deflated.of([piece]) for piece in pieces], Deflated.of([]))
    assert gzip.decompress(joined.gzip()) == joined.inflate() == b"".join(pieces)
    first_member_only = zlib.decompressobj(31)
    assert first_member_only.decompress(joined.gzip()) == b"".join(pieces)
    assert first_member_only.unused_data == b""
