"""The relay's algorithm against a simulated store and a simulated Kafka, with a crash at every step.

A crash may come before an effect, or after it with its answer lost. Two relays may run interleaved. At the end, every
committed row is in the topic exactly once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from ingest.outbox import steps
from ingest.outbox.steps import Batch, Mark, ProducerLost, Relay, RelayFenced, Row, Verdict, compare, digest
from tidewatch.errors import TidewatchError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Crash(Exception):
    pass


@dataclass
class World:
    """What survives every crash: the SQL store, and Kafka."""

    choose: Callable[[], str]
    epoch: int = 0
    rows: dict[int, int | None] = field(default_factory=dict)
    sent: set[int] = field(default_factory=set)
    batches: dict[int, tuple[str, bool]] = field(default_factory=dict)
    producer: int = 0
    mark: Mark | None = None
    topic: list[bytes] = field(default_factory=list)

    @contextmanager
    def effect(self) -> Iterator[None]:
        """Around the change itself: the crash comes before it, or after it."""
        when = self.choose()
        if when == "before":
            raise Crash
        yield
        if when == "after":
            raise Crash

    def row(self, number: int) -> Row:
        return Row(number, None, b"{}", b"row%d" % number, NOW)

    def restore_older_store(self, rows: dict[int, int | None], sent: set[int], batches: dict[int, Any]) -> None:
        self.rows, self.sent, self.batches = dict(rows), set(sent), dict(batches)


class SimulatedClaims:
    def __init__(self, world: World) -> None:
        self.world = world
        self.epoch = 0

    def take_over(self) -> None:
        with self.world.effect():
            self.world.epoch += 1
            self.epoch = self.world.epoch

    def check(self) -> None:
        if self.epoch != self.world.epoch:
            raise RelayFenced("replaced", fix="none")

    def open(self) -> tuple[Batch | None, int]:
        with self.world.effect():
            self.check()
            last = max(self.world.batches, default=0)
            number = next((n for n, (_, sent) in self.world.batches.items() if not sent), None)
            if number is None:
                return None, last
            rows = tuple(self.world.row(i) for i, batch in sorted(self.world.rows.items()) if batch == number)
            return Batch(Mark(number, self.world.batches[number][0]), rows), last

    def claim(self, after: int) -> Batch | None:
        with self.world.effect():
            self.check()
            ids = sorted(i for i, batch in self.world.rows.items() if batch is None)[:3]
            if not ids:
                return None
            number = max(after, max(self.world.batches, default=0)) + 1
            rows = tuple(self.world.row(i) for i in ids)
            self.world.rows |= dict.fromkeys(ids, number)
            self.world.batches[number] = (digest(rows), False)
            return Batch(Mark(number, digest(rows)), rows)

    def mark_sent(self, batch: Batch) -> None:
        with self.world.effect():
            self.check()
            self.world.sent |= {row.id for row in batch.rows}
            self.world.batches[batch.mark.batch] = (batch.mark.digest, True)

    def unsent(self) -> tuple[Sequence[bytes], datetime | None]:
        with self.world.effect():
            self.check()
            waiting = [self.world.row(i).tw for i in self.world.rows if i not in self.world.sent]
            return waiting, NOW if waiting else None

    def settle(self, found: set[bytes], after: int) -> None:
        with self.world.effect():
            self.check()
            unsent = [i for i in self.world.rows if i not in self.world.sent]
            self.world.batches = {n: (text, True) for n, (text, _) in self.world.batches.items()}
            self.world.rows |= dict.fromkeys(unsent, None)
            there = [i for i in unsent if self.world.row(i).tw in found]
            if there:
                self.world.rows |= dict.fromkeys(there, after + 1)
                self.world.sent |= set(there)
                self.world.batches[after + 1] = ("", True)


class SimulatedLog:
    def __init__(self, world: World) -> None:
        self.world = world
        self.producer = 0

    def connect(self) -> Mark | None:
        with self.world.effect():
            self.world.producer += 1
            self.producer = self.world.producer
            return self.world.mark

    def send(self, batch: Batch) -> None:
        with self.world.effect():
            if self.producer != self.world.producer:
                raise ProducerLost("fenced", fix="none")
            self.world.topic += [row.tw for row in batch.rows]
            self.world.mark = batch.mark

    def find(self, tws: Sequence[bytes], since: datetime) -> set[bytes]:
        with self.world.effect():
            return set(tws) & set(self.world.topic)


def relay(world: World) -> Relay:
    return Relay(SimulatedClaims(world), SimulatedLog(world))


def step(relay: Relay, times: int) -> None:
    for _ in range(times):
        relay.step()


def drain(world: World) -> None:
    """A last relay, undisturbed, ends what is left."""
    world.choose = lambda: "never"
    last = relay(world)
    step(last, 100 + 10 * len(world.rows))


def exactly_once(world: World) -> None:
    drain(world)
    assert sorted(world.topic) == sorted(world.row(i).tw for i in world.rows)
    assert world.sent == set(world.rows)


@pytest.mark.parametrize("crash_at", range(40))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_each_effect_neither_loses_nor_doubles(crash_at: int, when: str) -> None:
    calls = iter(range(10_000))
    world = World(choose=lambda: when if next(calls) == crash_at else "never")
    world.rows = dict.fromkeys(range(10))
    first = relay(world)
    with pytest.raises(Crash):  # the run is long enough for the crash to come
        step(first, 100)
    exactly_once(world)


def _one_schedule(seed: int) -> World:
    """Some relays, each of which may stall, crash, lose its connections, or wake as a zombie; Kafka may forget."""
    rng = random.Random(seed)
    world = World(choose=lambda: rng.choices(["before", "after", "never"], [1, 1, 12])[0])
    relays = [relay(world)]
    committed = 0
    for _ in range(300):
        if rng.random() < 0.3:
            # Sequences commit out of order: ids arrive shuffled.
            world.rows |= dict.fromkeys(rng.sample(range(committed, committed + 3), 3))
            committed += 3
        if rng.random() < 0.05:
            relays.append(relay(world))
        if rng.random() < 0.02:
            world.mark = None
        _disturbed_step(rng, world, relays)
    return world


def _disturbed_step(rng: random.Random, world: World, relays: list[Relay]) -> None:
    which = rng.randrange(len(relays))
    try:
        relays[which].step()
    except Crash:
        if rng.random() < 0.5:
            relays[which] = relay(world)
        else:
            _lose(relays, which, world)
    except RelayFenced:
        relays[which] = relay(world)
    except TidewatchError:
        _lose(relays, which, world)


def _lose(relays: list[Relay], which: int, world: World) -> None:
    try:
        relays[which].lost()
    except RelayFenced:
        relays[which] = relay(world)


@pytest.mark.parametrize("seed", range(150))
def test_random_schedules_neither_lose_nor_double(seed: int) -> None:
    exactly_once(_one_schedule(seed))


def test_a_store_restored_from_a_backup_does_not_double() -> None:
    world = World(choose=lambda: "never")
    world.rows = dict.fromkeys(range(6))
    drain(world)
    backup = (dict.fromkeys(range(6), None), set[int](), dict[int, Any]())
    world.restore_older_store(*backup)
    exactly_once(world)


def _always(verdict: Verdict) -> Callable[..., Verdict]:
    return lambda *_: verdict


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(("compare", _always(Verdict.NOTHING_OPEN)), id="the open batch is forgotten"),
        pytest.param(("compare", _always(Verdict.NOT_IN_KAFKA)), id="the open batch is always sent again"),
        pytest.param(("compare", _always(Verdict.IN_KAFKA)), id="the open batch is taken as sent"),
    ],
)
def test_the_schedules_find_a_relay_that_does_not_compare(
    broken: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, *broken)
    failed = 0
    for seed in range(40):
        try:
            exactly_once(_one_schedule(seed))
        except AssertionError:
            failed += 1
    assert failed


def test_compare_trusts_a_mark_only_when_number_and_digest_agree() -> None:
    rows = (Row(1, None, b"{}", b"a", NOW),)
    open_batch = Batch(Mark(7, digest(rows)), rows)
    assert compare(None, 0, None) is Verdict.NOTHING_OPEN
    assert compare(None, 7, Mark(7, "x")) is Verdict.NOTHING_OPEN
    assert compare(open_batch, 7, open_batch.mark) is Verdict.IN_KAFKA
    assert compare(open_batch, 7, Mark(6, "x")) is Verdict.NOT_IN_KAFKA
    assert compare(open_batch, 7, Mark(7, "another batch of that number")) is Verdict.UNCERTAIN
    assert compare(open_batch, 7, None) is Verdict.UNCERTAIN
    assert compare(open_batch, 7, Mark(5, "x")) is Verdict.UNCERTAIN
    assert compare(None, 3, Mark(4, "the store was restored")) is Verdict.UNCERTAIN
    assert Mark.decode(open_batch.mark.encode()) == open_batch.mark
