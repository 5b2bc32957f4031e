"""The course of a lane: steps 2 to 7 of the algorithm (docs/loader.md), without input or output.

`Course.run` is a generator: it yields what it wants done (effects.py) and is sent the answer. Rebalances come between,
through `holdings`: after each yield, what was held before may be held no longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

from ingest.loader.blocks import Block, Identity, Ranges, ranges_of
from ingest.loader.effects import (
    Bad,
    Batch,
    Bury,
    Commit,
    CommitResult,
    Committed,
    Failed,
    FindBad,
    Flow,
    Gauge,
    Halt,
    Insert,
    Landed,
    Measure,
    Next,
    ReadCommitted,
    Rewind,
    Trouble,
    Wait,
)
from ingest.loader.holdings import Holdings
from ingest.loader.intents import Intent, decode, encode
from ingest.loader.policy import Policy, Tally


class Course:
    def __init__(self, identity: Identity, policy: Policy) -> None:
        self.identity = identity
        self.policy = policy
        self.holdings = Holdings(identity)
        self.tally = Tally(policy)
        self.window_used = 0.0
        """The share of the deduplication window that lies behind the block in hand."""

    def run(self) -> Flow[None]:
        """Ends only by being closed, or after a Halt."""
        while True:
            while self.holdings.blocked:
                yield from self.settle()
            batch: Batch | None = yield Next()
            if batch is None:
                yield from self.finalise()
                continue
            yield from self.load(batch)

    def settle(self) -> Flow[None]:
        """See recovery.py."""
        raise NotImplementedError

    def load(self, batch: Batch) -> Flow[None]:
        block = self.bound(batch)
        if block is None:
            yield Rewind()
            return
        intent = yield from self.declare(block)
        if intent is not None:
            yield from self.land(block, intent)
        else:
            for r in block.ranges:
                if r.partition in self.holdings.claimed(block.claims):
                    self.holdings.held[r.partition].next = r.first
            yield Rewind()

    def bound(self, batch: Batch) -> Block | None:
        """The block that a batch becomes: each range begins where the last one of its partition ended."""
        readable = self.holdings.readable
        if not batch.lasts or any(last < readable.get(p, last + 1) for p, last in batch.lasts.items()):
            return None
        ranges = ranges_of({p: (readable[p], last) for p, last in batch.lasts.items()})
        for r in ranges:
            self.holdings.held[r.partition].next = r.last + 1
        return Block(ranges, batch.rows, self.holdings.claims(batch.lasts))

    def declare(self, block: Block) -> Flow[Intent | None]:
        """Commit the intent, and with it the end of the block before. None: it does not stand, and must not land."""
        gauge = yield from self.measure(fresh=False)
        deadline = gauge.now + self.policy.deadline_seconds
        judge = self.policy.judge
        intent = Intent(self.identity.topic_id, block.ranges, judge, gauge.now, deadline, gauge.mark)
        attempt = 0
        self.holdings.undecided = frozenset(block.claims)
        commit = Commit({})
        while len(self.holdings.claimed(block.claims)) == len(block.claims):
            commit = self.together(self.intend(block, intent))
            if (yield from self.make(commit)):
                break
            attempt += 1
            yield Wait(self.policy.wait(attempt), Trouble.KAFKA, "the intent was not committed")
        else:
            if not attempt or not (yield from self.stands(block, intent)):
                self.holdings.undecided = frozenset()
                return None
            self.holdings.closed(commit)
        self.holdings.undecided = frozenset()
        return intent

    def stands(self, block: Block, intent: Intent) -> Flow[bool]:
        """A partition left while nobody knew whether the intent had been committed. One commit is all or nothing, so
        what is left tells: if the intent is there, its next owner found it too, and the block must land whole.
        """
        while mine := self.holdings.claimed(block.claims):
            found: Mapping[int, Committed] | Failed = yield ReadCommitted(tuple(mine))
            if not isinstance(found, Failed):
                return any(intent.same_block(decode(committed.metadata).intent) for committed in found.values())
            yield Wait(self.policy.wait(0), found.trouble, found.message)
        return False

    def land(self, block: Block, intent: Intent) -> Flow[tuple[Block, Intent]]:
        """Insert the block, however often it takes, under one token; or drop it when all its partitions are gone.

        Returns what became of both: more letters, another deadline.
        """
        token = self.identity.token(block.ranges)
        attempt = 0
        late = False
        while self.holdings.claimed(block.claims):
            gauge = yield from self.measure(fresh=attempt > 0)
            self.window_used = self.policy.window.used(intent, gauge)
            if attempt and self.policy.window.near_end(intent, gauge):
                yield from self.read_back(block, intent)
                break
            if late or self.policy.stale(intent, gauge):
                intent = self.renew(intent, gauge)
                if not (yield from self.recommit(block, intent)):
                    continue
            attempt += 1
            answer: Landed | Failed = yield Insert(block, token, intent.deadline)
            if isinstance(answer, Landed):
                self.tally.add(len(block.rows) - len(block.skip), 0, gauge.now)
                self.holdings.landed(block)
                break
            late = answer.trouble is Trouble.DEADLINE
            if answer.trouble is Trouble.BAD_RECORD:
                block, intent = yield from self.bury(block, intent, gauge.now, attempt)
            else:
                yield Wait(self.policy.wait(attempt), answer.trouble, answer.message)
        return block, intent

    def bury(self, block: Block, intent: Intent, now: int, attempt: int) -> Flow[tuple[Block, Intent]]:
        """Find what is bad without writing, and dead-letter it; the block and the intent that know of it."""
        bad: list[Bad] | Failed = yield FindBad(block)
        if isinstance(bad, Failed):
            yield Wait(self.policy.wait(attempt), bad.trouble, bad.message)
            return block, intent
        if not bad:
            yield Wait(self.policy.wait(attempt), Trouble.UNEXPLAINED, "the insert fails, and no record is bad alone")
            return block, intent
        if self.tally.too_bad(len(block.rows), len(bad), now):
            message = f"{len(bad)} of {len(block.rows)} records are bad, first: {bad[0].message}"
            yield Wait(self.policy.longest_wait, Trouble.MOSTLY_BAD, message)
            return block, intent
        return (yield from self.dead_letter(block, intent, bad, now))

    def dead_letter(self, block: Block, intent: Intent, bad: list[Bad], now: int) -> Flow[tuple[Block, Intent]]:
        """Bad records of others' partitions are left out of the rows, which every owner decides alike; their letters
        are for their owners to write, together with their own offsets.
        """
        mine = self.holdings.claimed(block.claims)
        own = [b for b in bad if b.position[0] in mine]
        if own:
            written = yield from self.write_letters(block, intent, own)
            if written.letters == intent.letters:
                yield Wait(self.policy.wait(1), Trouble.KAFKA, "the dead letters were not committed")
                return block, intent
            intent = written
            self.tally.add(len(own), len(own), now)
        return block.without(b.position for b in bad), intent

    def write_letters(self, block: Block, intent: Intent, bad: list[Bad]) -> Flow[Intent]:
        """The intent that knows the letters; the same as before when none were written."""

        def offsets(letters: Ranges) -> Mapping[int, Committed]:
            return self.intend(block, replace(intent, letters=intent.letters + letters)).offsets

        result: CommitResult
        result, letters = yield Bury(block, bad, offsets)
        if result is CommitResult.DONE:
            return replace(intent, letters=intent.letters + letters)
        # Nobody knows whether the transaction was committed. The offsets were part of it, so they tell.
        while mine := self.holdings.claimed(block.claims):
            found: Mapping[int, Committed] | Failed = yield ReadCommitted(tuple(mine))
            if not isinstance(found, Failed):
                notes = (decode(committed.metadata).intent for committed in found.values())
                known = (note.letters for note in notes if note is not None and note.same_block(intent))
                new = {letter for letters in known for letter in letters} - set(intent.letters)
                return replace(intent, letters=(*intent.letters, *sorted(new)))
            yield Wait(self.policy.wait(0), found.trouble, found.message)
        return intent

    def finalise(self) -> Flow[None]:
        commit = self.holdings.final_commit()
        if commit is not None:
            yield from self.make(commit)

    def together(self, offsets: Commit) -> Commit:
        """One commit for the given offsets and for everything that has landed since the last."""
        finals = self.holdings.final_commit() or Commit({})
        return Commit({**finals.offsets, **offsets.offsets}, finals.closes)

    def recommit(self, block: Block, intent: Intent) -> Flow[bool]:
        """False when it was not made, or when there is nobody left to make it for: an insert whose deadline stands
        nowhere could come when its next owner thinks that none can.
        """
        offsets = self.intend(block, intent)
        if not offsets.offsets:
            return False
        if (yield from self.make(self.together(offsets))):
            return True
        yield Wait(self.policy.wait(1), Trouble.KAFKA, "the renewed intent was not committed")
        return False

    def intend(self, block: Block, intent: Intent) -> Commit:
        """The intent in each partition of the block that is still ours to commit, at the unchanged offset."""
        text = encode(intent)
        mine = self.holdings.claimed(block.claims)
        return Commit({r.partition: Committed(r.first, text) for r in block.ranges if r.partition in mine})

    def measure(self, *, fresh: bool) -> Flow[Gauge]:
        attempt = 0
        while True:
            gauge: Gauge | Failed = yield Measure(fresh)
            if isinstance(gauge, Gauge):
                return gauge
            yield Wait(self.policy.wait(attempt), gauge.trouble, gauge.message)
            attempt += 1

    def renew(self, intent: Intent, gauge: Gauge) -> Intent:
        return intent.renewed(gauge.now + self.policy.deadline_seconds, self.policy.judge)

    def read_back(self, block: Block, intent: Intent, *, contested: bool = False) -> Flow[None]:
        """See recovery.py."""
        raise NotImplementedError

    def halt(self, message: str) -> Flow[NoReturn]:
        yield Halt(message)
        raise AssertionError("a halted course is not continued")

    def make(self, commit: Commit) -> Flow[bool]:
        result: CommitResult = yield commit
        if result is CommitResult.DONE:
            self.holdings.closed(commit)
        return result is CommitResult.DONE
