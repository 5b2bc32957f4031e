"""A Kafka and a ClickHouse in memory, as badly behaved as FIELD.md §3 found the real ones, under a random schedule.

Loaders run the real algorithm (ingest.loader.recovery.Loading); only what they ask for is simulated. One step carries
out one effect of one loader and moves the clock by a second, so that anything may happen between two effects.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ingest.loader import effects as e
from ingest.loader.blocks import Block, Identity, Position, Range, Ranges
from ingest.loader.policy import Policy, Window
from ingest.loader.recovery import Loading

PARTITIONS = 3
WINDOW = 44


@dataclass(frozen=True)
class Record:
    partition: int
    offset: int
    uid: int
    bad_for: frozenset[str]
    """Judges that refuse it."""


class Kafka:
    def __init__(self) -> None:
        self.topic_id = "topic-1"
        self.log: dict[int, list[Record]] = {p: [] for p in range(PARTITIONS)}
        self.low = dict.fromkeys(range(PARTITIONS), 0)
        self.end = dict.fromkeys(range(PARTITIONS), 0)
        self.committed: dict[int, e.Committed] = {}
        self.letters: list[tuple[str, Position, int]] = []
        """(topic id, origin, uid)"""
        self.generation = 0
        self.members: dict[str, int] = {}
        """Member → the generation that it knows."""

    def produce(self, rng: random.Random, uid: int, bad_for: frozenset[str]) -> Record:
        p = rng.randrange(PARTITIONS)
        offset = self.end[p] + (rng.random() < 0.1)  # now and then a control record
        record = Record(p, offset, uid, bad_for)
        self.log[p].append(record)
        self.end[p] = offset + 1
        return record

    def read(self, r: Range) -> list[Record]:
        return [x for x in self.log[r.partition] if max(r.first, self.low[r.partition]) <= x.offset <= r.last]

    def fenced(self, member: str) -> bool:
        """Only generations are fenced: a member may commit for partitions that it does not own."""
        return self.members.get(member) != self.generation


class ClickHouse:
    def __init__(self, *, table_window: int = WINDOW, view_window: int = WINDOW) -> None:
        self.raw: Counter[int] = Counter()
        self.view: Counter[int] = Counter()
        self.places: dict[tuple[str, Position], int] = {}
        self._seen_raw: deque[tuple[str, int]] = deque(maxlen=table_window or None)
        self._seen_view: deque[tuple[str, int]] = deque(maxlen=view_window or None)
        self._windows = (table_window, view_window)
        self.mark = 0
        self.up = True
        self.view_works = True

    def insert(  # noqa: PLR0917
        self, topic_id: str, rows: list[Record], insert: e.Insert, judge: str, now: int, rng: random.Random
    ) -> Any:
        if not self.up:
            return e.Failed(e.Trouble.UNAVAILABLE, "gone")
        if now > insert.deadline:
            return e.Failed(e.Trouble.DEADLINE, "late")
        if any(judge in row.bad_for for row in rows):
            return e.Failed(e.Trouble.BAD_RECORD, "bad")
        for day in (0, 1):
            part = [row for row in rows if row.uid % 2 == day]
            if not part:
                continue
            if self._new(self._seen_raw, self._windows[0], (insert.token, day)):
                self.raw.update(row.uid for row in part)
                self.places |= {(topic_id, (row.partition, row.offset)): row.uid for row in part}
            if not self.view_works:
                return e.Failed(e.Trouble.VIEW, "while pushing to view")
            if rng.random() < 0.05:
                return e.Failed(e.Trouble.UNAVAILABLE, "killed in the middle")
            if self._new(self._seen_view, self._windows[1], (insert.token, day)):
                self.view.update(row.uid for row in part)
        return e.Landed()

    def _new(self, seen: deque[tuple[str, int]], window: int, key: tuple[str, int]) -> bool:
        if window and key in seen:
            return False
        self.mark += 1
        if window:
            seen.append(key)
        return True


@dataclass
class Process:
    """A loader: what it knows of the group, the effect that it waits for, and how many times it ran."""

    name: str
    course: Loading
    flow: Generator[e.Effect, Any, None]
    pending: e.Effect
    judge: str
    topic_id: str
    member: str
    answer: Any = None
    answered: bool = False
    frozen: int = 0
    halted: str = ""
    collected: dict[int, list[Record]] = field(default_factory=dict)
    reading: dict[int, int] = field(default_factory=dict)


class World:
    """`loading` may be a mutant of the algorithm."""

    DEADLINE: ClassVar[int] = 8

    def __init__(
        self,
        seed: int,
        loading: type[Loading] = Loading,
        *,
        identity: type[Identity] = Identity,
        table_window: int = WINDOW,
        view_window: int = WINDOW,
        policy: Mapping[str, Any] | None = None,
        faults: frozenset[str] = frozenset(),
    ) -> None:
        self.rng = random.Random(seed)
        self.loading = loading
        self.identity = identity
        self.policy = dict(policy or {})
        self.faults = faults
        self.kafka = Kafka()
        self.clickhouse = ClickHouse(table_window=table_window, view_window=view_window)
        self.now = 1000
        self.uid = 0
        self.runs = 0
        self.judge = "a"
        self.calm = False
        self.processes: dict[str, Process] = {}
        self.owners: dict[int, str | None] = dict.fromkeys(range(PARTITIONS))
        self.late: list[tuple[int, e.Insert, Process]] = []
        self.records: dict[int, Record] = {}
        self.excused: set[int] = set()
        """Records that retention took before they were loaded, or that went with their topic."""
        self.deleted: set[int] = set()
        self.lost_offsets = False
        self.half_there = False
        self.hasty_reads = 0
        for name in ("x", "y", "z"):
            self.start(name)

    # -- processes and the group

    def start(self, name: str) -> None:
        self.runs += 1
        judge = self.judge
        chosen = {
            "window": Window(blocks=2 * WINDOW),
            "deadline_seconds": self.DEADLINE,
            "grace_seconds": 1,
            "min_bad": 10**9,
            "longest_wait": 1,
        }
        policy = Policy(judge=judge, **{**chosen, **self.policy})
        course = self.loading(self.identity("c", "g", self.kafka.topic_id), policy)
        flow = course.run()
        member = f"{name}{self.runs}"
        self.processes[name] = Process(name, course, flow, next(flow), judge, self.kafka.topic_id, member)
        self.rebalance()

    def crash(self, process: Process) -> None:
        process.flow.close()
        del self.processes[process.name]
        self.leave(process)

    def leave(self, process: Process) -> None:
        """The broker does without it, whether it knows or not."""
        for p, owner in self.owners.items():
            if owner == process.member:
                self.owners[p] = None
        self.rebalance()

    def rebalance(self) -> None:
        self.kafka.generation += 1
        self.kafka.members = {m: g for m, g in self.kafka.members.items() if m in self._live()}

    def _live(self) -> list[str]:
        return [p.member for p in self.processes.values() if p.frozen >= 0]

    def poll(self, process: Process) -> None:
        """What a rebalance means to one member when it polls next: learn of losses, give up, take over."""
        if process.frozen < 0:  # it was thrown out while it slept
            process.course.holdings.lose(list(process.course.holdings.held))
            process.collected.clear()
            process.reading.clear()
            process.frozen = 0
            self.runs += 1
            process.member = f"{process.name}{self.runs}"
            self.rebalance()
        self.kafka.members[process.member] = self.kafka.generation
        live = sorted(self._live())
        target = {p: live[p % len(live)] for p in range(PARTITIONS)}
        mine = [p for p, owner in self.owners.items() if owner == process.member]
        leaving = [p for p in mine if target[p] != process.member]
        if leaving:
            self._give_up(process, leaving)
        taken = [p for p, owner in self.owners.items() if owner is None and target[p] == process.member]
        if taken:
            for p in taken:
                self.owners[p] = process.member
            never = e.Committed(-1, "")
            found = {p: self.kafka.committed.get(p, never) for p in taken}
            process.course.holdings.assigned(found, {p: self.kafka.low[p] for p in taken})
            self._resume(process, taken)

    def _give_up(self, process: Process, leaving: list[int]) -> None:
        if isinstance(process.pending, e.Insert) and not process.answered and self.rng.random() < 0.5:
            # The insert in flight ends within the time that a revocation may take.
            process.answer, process.answered = self.do_insert(process, process.pending), True
            if isinstance(process.answer, e.Landed):
                process.course.holdings.landed(process.pending.block)
        commit = process.course.holdings.release(leaving)
        if commit is not None:
            self.do_commit(process, commit)
        for p in leaving:
            self.owners[p] = None
            process.collected.pop(p, None)
            process.reading.pop(p, None)

    # -- effects

    def step(self, process: Process) -> None:
        effect = process.pending
        # A lane polls, and so learns of rebalances, while it waits for anything but its own commits.
        commits = isinstance(effect, e.Commit | e.Bury)
        if not commits:
            self.poll(process)
        if not process.answered:
            process.answer = self.carry_out(process, effect)
        process.answered = False
        if commits:
            self.poll(process)
        if process.halted:
            return
        process.pending = process.flow.send(process.answer)

    def carry_out(self, process: Process, effect: e.Effect) -> Any:
        match effect:
            case e.Next():
                return self.do_next(process)
            case e.Commit():
                return self.do_commit(process, effect)
            case e.Insert():
                self.collect(process)
                return self.do_insert(process, effect)
            case e.FindBad():
                return [
                    e.Bad((row.partition, row.offset), "bad", "", "bad")
                    for row in self.rows(effect.block)
                    if process.judge in row.bad_for
                ]
            case e.Bury():
                return self.do_bury(process, effect)
            case e.ReadCommitted():
                never = e.Committed(-1, "")
                return {p: self.kafka.committed.get(p, never) for p in effect.partitions}
            case e.Rebuild():
                gone = {
                    r.partition: max(0, min(self.kafka.low[r.partition], r.last + 1) - r.first) for r in effect.ranges
                }
                return e.Rebuilt([row for r in effect.ranges for row in self.kafka.read(r)], gone)
            case e.ReadLetters():
                there = [letter for r in effect.letters for letter in self.kafka.letters[r.first : r.last + 1]]
                return {
                    where for topic_id, where, _ in there
                    if topic_id == process.topic_id and any(r.holds(where) for r in effect.ranges)
                }  # fmt: skip
            case e.Missing():
                where = {(row.partition, row.offset) for row in self.rows(effect.block)}
                there = {w for w in where if (process.topic_id, w) in self.clickhouse.places}
                self.hasty_reads += not there and self.still_coming(process, effect.block)
                return where - there, len(there)
            case e.Measure():
                return e.Gauge(self.now, self.clickhouse.mark)
            case e.HaveRows(positions):
                rows = {where for t, where in self.clickhouse.places if t == process.topic_id}
                letters = {where for t, where, _ in self.kafka.letters if t == process.topic_id}
                return {p for p, offset in rows | letters if offset >= positions.get(p, offset + 1)}
            case e.RebuildAggregates():
                if process.topic_id == self.kafka.topic_id:
                    for row in (row for log in self.kafka.log.values() for row in log):
                        if any(r.holds((row.partition, row.offset)) for r in effect.block.ranges):
                            self.clickhouse.view[row.uid] = self.clickhouse.raw[row.uid]
            case e.Rewind():
                process.collected.clear()
                process.reading = dict(process.course.holdings.readable)
            case e.Resume():
                self._resume(process, effect.partitions)
            case e.Halt():
                process.halted = effect.message
        return None

    def still_coming(self, reader: Process, block: Block) -> bool:
        """Whether an insert of the block, by a loader that judges otherwise, may still be taken by the server."""
        return any(
            insert.block.ranges == block.ranges and insert.deadline >= self.now and process.judge != reader.judge
            for _, insert, process in self.late
        )

    def _resume(self, process: Process, partitions: Iterable[int]) -> None:
        readable = process.course.holdings.readable
        process.reading.update({p: readable[p] for p in partitions if p in readable})

    def rows(self, block: Block) -> list[Record]:
        rows: list[Record] = block.rows
        return [row for row in rows if (row.partition, row.offset) not in block.skip]

    def collect(self, process: Process) -> None:
        for p, at in process.reading.items():
            if self.rng.random() < 0.3:
                continue
            waiting = [row for row in self.kafka.log[p] if row.offset >= max(at, self.kafka.low[p])]
            some = waiting[: self.rng.randint(0, 6)]
            if some:
                process.collected.setdefault(p, []).extend(some)
                process.reading[p] = some[-1].offset + 1

    def do_next(self, process: Process) -> e.Batch | None:
        if process.course.holdings.blocked:
            return None
        self.collect(process)
        if not process.collected:
            return None
        taken, process.collected = process.collected, {}
        return e.Batch(
            {p: rows[-1].offset for p, rows in taken.items()}, [row for rows in taken.values() for row in rows]
        )

    def do_commit(self, process: Process, commit: e.Commit) -> e.CommitResult:
        if self.kafka.fenced(process.member) or self.chance(0.04):
            return e.CommitResult.AGAIN
        if len({c.metadata for c in commit.offsets.values()}) > 2 and self.chance(0.5):
            raise AssertionError("one intent has one text")
        self.kafka.committed.update(commit.offsets)
        return e.CommitResult.AGAIN if self.chance(0.04) else e.CommitResult.DONE

    def do_insert(self, process: Process, insert: e.Insert) -> Any:
        if self.chance(0.06) and not self.calm:
            self.late.append((self.now + self.rng.randint(1, 60), insert, process))
            return e.Failed(e.Trouble.UNAVAILABLE, "no answer, and still on its way")
        result = self.arrive(process, insert)
        if self.chance(0.06):
            return e.Failed(e.Trouble.UNAVAILABLE, "the answer was lost")
        return result

    def arrive(self, process: Process, insert: e.Insert) -> Any:
        rng = self.rng if not self.calm else random.Random(1)
        rows = self.rows(insert.block)
        result = self.clickhouse.insert(process.topic_id, rows, insert, process.judge, self.now, rng)
        self.half_there |= len({self.clickhouse.raw[row.uid] for row in rows}) > 1
        return result

    def do_bury(self, process: Process, bury: e.Bury) -> tuple[e.CommitResult, Ranges]:
        if self.kafka.fenced(process.member) or self.chance(0.05):
            return e.CommitResult.AGAIN, ()
        by_place = {(row.partition, row.offset): row for row in bury.block.rows}
        first = len(self.kafka.letters)
        for bad in bury.bad:
            self.kafka.letters.append((process.topic_id, bad.position, by_place[bad.position].uid))
        letters = (Range(0, first, len(self.kafka.letters) - 1),)
        self.kafka.committed.update(bury.offsets(letters))
        return (e.CommitResult.AGAIN if self.chance(0.2) else e.CommitResult.DONE), letters

    # -- the schedule

    def chance(self, probability: float) -> bool:
        return not self.calm and self.rng.random() < probability

    def produce(self) -> None:
        for _ in range(self.rng.randint(1, 8)):
            roll = self.rng.random()
            bad_for = {"a", "b"} if roll < 0.04 else {"b"} if roll < 0.06 else {"a"} if roll < 0.08 else ()
            self.uid += 1
            record = self.kafka.produce(self.rng, self.uid, frozenset(bad_for))
            self.records[self.uid] = record

    def disturb(self) -> None:
        rng, awake = self.rng, [p for p in self.processes.values() if p.frozen == 0]
        roll = rng.random()
        if roll < 0.015 and awake:
            self.crash(rng.choice(awake))
        elif roll < 0.035 and len(self.processes) < 3:
            self.start(next(n for n in "xyz" if n not in self.processes))
        elif roll < 0.045 and awake:
            rng.choice(awake).frozen = self.now + rng.randint(5, 90)
        elif roll < 0.055:
            for process in [p for p in self.processes.values() if p.frozen > 0]:
                process.frozen = -process.frozen  # thrown out: the group goes on without it
                self.leave(process)
        elif roll < 0.065:
            self.clickhouse.up = not self.clickhouse.up
        elif roll < 0.075:
            self.clickhouse.view_works = not self.clickhouse.view_works
        elif roll < 0.08 and "retention" in self.faults:
            self.retain(rng.randrange(PARTITIONS))
        elif roll < 0.0815 and "recreate" in self.faults:
            self.recreate()
        elif roll < 0.0845 and "judge" in self.faults:
            self.deploy()
        elif roll < 0.0855 and "expiry" in self.faults:
            self.expire_offsets()
        if rng.random() < 0.3:
            self.clickhouse.up = self.clickhouse.view_works = True

    def retain(self, p: int) -> None:
        low = min(self.kafka.end[p], self.kafka.low[p] + self.rng.randint(1, 10))
        self.kafka.low[p] = max(self.kafka.low[p], low)
        self.excused |= {row.uid for row in self.kafka.log[p] if row.offset < low}

    def recreate(self) -> None:
        """The topic is deleted and made again; committed offsets of the former stay, as after a race in the broker."""
        for process in list(self.processes.values()):
            self.crash(process)
        self.deleted |= {row.uid for log in self.kafka.log.values() for row in log}
        self.excused |= self.deleted
        self.kafka.topic_id += "'"
        for p in range(PARTITIONS):
            self.kafka.log[p], self.kafka.low[p], self.kafka.end[p] = [], 0, 0
        self.start("x")

    def deploy(self) -> None:
        """All loaders stop, and start with another idea of what a bad record is."""
        for process in list(self.processes.values()):
            self.crash(process)
        self.judge = "b" if self.judge == "a" else "a"
        self.start("x")

    def expire_offsets(self) -> None:
        for process in list(self.processes.values()):
            self.crash(process)
        if self.rng.random() < 0.5:
            self.kafka.committed.clear()
        else:  # an operator sets them back, by a tool that knows nothing of loaders
            for p, committed in self.kafka.committed.items():
                self.kafka.committed[p] = e.Committed(max(0, committed.offset - self.rng.randint(0, 5)), "")
        self.lost_offsets = True
        self.start("x")

    def deliver_late(self) -> None:
        for entry in [x for x in self.late if x[0] <= self.now]:
            self.late.remove(entry)
            self.arrive(entry[2], entry[1])

    def wake(self) -> None:
        for process in self.processes.values():
            if 0 < process.frozen <= self.now:
                process.frozen = 0

    def tick(self) -> None:
        self.now += 1
        self.deliver_late()
        self.wake()
        runnable = [p for p in self.processes.values() if not p.halted and not p.frozen > 0 and -p.frozen <= self.now]
        if runnable:
            self.step(self.rng.choice(runnable))

    def run(self, steps: int = 700) -> World:
        for n in range(steps):
            if n < steps * 0.7 and self.rng.random() < 0.25:
                self.produce()
            self.disturb()
            self.tick()
        self.heal()
        return self

    def heal(self) -> None:
        """Nothing fails any more; everything that was accepted has to arrive."""
        self.calm = True
        self.clickhouse.up = self.clickhouse.view_works = True
        self.now += 100
        self.deliver_late()
        if not self.processes:
            self.start("x")
        for _ in range(6000):
            self.tick()
            if self.done():
                return
        stuck = {p.name: (p.pending, p.course.holdings.unsettled) for p in self.processes.values()}
        raise AssertionError(f"never done: {stuck}, committed {self.kafka.committed}, ends {self.kafka.end}")

    def done(self) -> bool:
        if any(p.halted for p in self.processes.values()):
            return True
        return not self.late and all(
            not [row for row in self.kafka.log[p] if row.offset >= max(self._committed(p), self.kafka.low[p])]
            for p in range(PARTITIONS)
        )

    def _committed(self, p: int) -> int:
        return self.kafka.committed[p].offset if p in self.kafka.committed else 0

    # -- the verdict

    def verdict(self) -> list[str]:
        """What is wrong; empty when each record is a row or a letter exactly once, and the aggregate equals the rows."""
        halted = [p.halted for p in self.processes.values() if p.halted]
        # To stop is right where the table holds half of a block whose token is forgotten, and where offsets are lost.
        wrong = [
            f"halted: {message}"
            for message in halted
            if not (self.half_there and "half in the table" in message)
            and not (self.lost_offsets and "no committed offset" in message)
        ]
        if self.hasty_reads:
            wrong.append(
                f"nothing of a block was found {self.hasty_reads} times while an insert of the block could still come"
            )
        letters = Counter(uid for _, _, uid in self.kafka.letters)
        for uid in self.records:
            copies = self.clickhouse.raw[uid] + letters[uid]
            if copies > 1:
                wrong.append(f"{uid} has {self.clickhouse.raw[uid]} rows and {letters[uid]} letters")
            if copies == 0 and uid not in self.excused and not halted:
                wrong.append(f"{uid} is lost: {self.records[uid]}")
            if self.clickhouse.view[uid] != self.clickhouse.raw[uid] and not halted and uid not in self.deleted:
                wrong.append(f"{uid}: {self.clickhouse.view[uid]} in the view, {self.clickhouse.raw[uid]} in the table")
        return wrong
