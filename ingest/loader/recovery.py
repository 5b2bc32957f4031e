"""What a former owner left behind: steps 8 to 10 of the algorithm (docs/loader.md), without input or output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ingest.loader.blocks import Block, Position, Ranges
from ingest.loader.course import Course
from ingest.loader.effects import (
    Bad,
    Committed,
    Failed,
    FindBad,
    Flow,
    Gauge,
    HaveRows,
    Insert,
    Landed,
    Missing,
    ReadCommitted,
    ReadLetters,
    Rebuild,
    RebuildAggregates,
    Rebuilt,
    Resume,
    Rewind,
    Trouble,
    Wait,
)
from ingest.loader.intents import MIXED, Intent, decode


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the committed offsets of all partitions of an intent say together."""

    intent: Intent
    """With the letters that any owner wrote, and the latest deadline that any owner gave."""
    contested: bool
    """A listed partition stands before the end of the block without the intent: somebody moved an offset by hand."""


def weigh(intent: Intent, found: Mapping[int, Committed]) -> Evidence:
    letters: Ranges = intent.letters
    deadline = intent.deadline
    judge = intent.judge
    contested = False
    for r in intent.ranges:
        committed = found[r.partition]
        note = decode(committed.metadata).intent
        if intent.same_block(note) and note is not None:
            letters += tuple(letter for letter in note.letters if letter not in letters)
            deadline = max(deadline, note.deadline)
            judge = judge if judge == note.judge else MIXED
        elif committed.offset <= r.last:
            contested = True
    return Evidence(replace(intent, letters=letters, deadline=deadline, judge=judge), contested)


class Loading(Course):
    """The whole algorithm."""

    def settle(self) -> Flow[None]:
        """Bring one of the partitions that were taken over to where new records may be read from it."""
        if self.holdings.unproven:
            yield from self._prove(tuple(self.holdings.unproven))
            return
        intent = next(iter(self.holdings.unsettled.values()))
        mine = tuple(p for p, left in self.holdings.unsettled.items() if left.same_block(intent))
        recovered = yield from self._recover(intent, self.holdings.claims(mine))
        if recovered is None:
            return
        yield from self.finalise()
        settled = tuple(self.holdings.claimed(recovered.claims))
        for partition in settled:
            self.holdings.unsettled.pop(partition, None)
        yield Resume(settled)

    def _prove(self, partitions: tuple[int, ...]) -> Flow[None]:
        """Without an offset of a loader's own, reading begins at the beginning of the log, or where an operator set it;
        unless rows from there on are loaded already, which would be loaded again.
        """
        loaded: set[int] | Failed = yield HaveRows({p: self.holdings.held[p].next for p in partitions})
        if isinstance(loaded, Failed):
            yield Wait(self.policy.wait(1), loaded.trouble, loaded.message)
            return
        lost = sorted(loaded & self.holdings.unproven)
        if lost:
            yield from self.halt(
                f"no committed offset of a loader for partitions {lost}, and rows from there on are loaded"
            )
        proven = tuple(p for p in partitions if p in self.holdings.unproven)
        self.holdings.unproven.difference_update(proven)
        yield Resume(proven)

    def _recover(self, intent: Intent, claims: Mapping[int, int]) -> Flow[Block | None]:
        """Land the whole block that the intent names, whoever owns the rest of it now. None: try again."""
        found: Mapping[int, Committed] | Failed = yield ReadCommitted(tuple(r.partition for r in intent.ranges))
        if isinstance(found, Failed):
            yield Wait(self.policy.wait(1), found.trouble, found.message)
            return None
        evidence = weigh(intent, found)
        block = yield from self._rebuild(evidence.intent, claims)
        if block is None:
            return None
        gauge = yield from self.measure(fresh=True)
        # Loaders that judge differently leave out different rows under one token: only the table knows which.
        foreign = evidence.intent.judge != self.policy.judge
        # Where records are gone from the log, an attempt that still held them must not come after this one.
        gone = any(block.gone.values())
        if evidence.contested or foreign or gone or self.policy.window.near_end(intent, gauge):
            yield from self.read_back(block, evidence.intent, contested=evidence.contested)
        else:
            yield from self.land(block, evidence.intent)
        if gone:
            # An attempt before may have written rows that are gone from the log, and failed at a view: what is left of
            # the block completes the table, and cannot complete the view.
            yield from self._rebuild_aggregates(block)
        return block

    def _rebuild_aggregates(self, block: Block) -> Flow[None]:
        while self.holdings.claimed(block.claims):
            failed: Failed | None = yield RebuildAggregates(block)
            if failed is None:
                return
            yield Wait(self.policy.wait(1), failed.trouble, failed.message)

    def _rebuild(self, intent: Intent, claims: Mapping[int, int]) -> Flow[Block | None]:
        rebuilt: Rebuilt | Failed = yield Rebuild(intent.ranges)
        if isinstance(rebuilt, Failed):
            yield Wait(self.policy.wait(1), rebuilt.trouble, rebuilt.message)
            return None
        dead: set[Position] | Failed = set()
        if intent.letters:
            dead = yield ReadLetters(intent.letters, intent.ranges)
        if isinstance(dead, Failed):
            yield Wait(self.policy.wait(1), dead.trouble, dead.message)
            return None
        return Block(intent.ranges, rebuilt.rows, claims, frozenset(dead), rebuilt.gone)

    def read_back(self, block: Block, intent: Intent, *, contested: bool = False) -> Flow[None]:
        """The token alone may not tell what happened to the block, so the table has to say."""
        completed = False
        while self.holdings.claimed(block.claims):
            gauge = yield from self.measure(fresh=True)
            if not self.policy.settled(intent, gauge):
                yield Wait(1.0, Trouble.DEADLINE, "waiting for inserts of this block to have ended, to count its rows")
                continue
            answer = yield Missing(block)
            if isinstance(answer, Failed):
                yield Wait(self.policy.wait(1), answer.trouble, answer.message)
                continue
            missing, present = answer
            if missing and not present:
                if contested:
                    self._discard(block)
                    yield Rewind()
                    return
                block, intent = yield from self._again(block, intent, gauge)
                if intent.judge == self.policy.judge:
                    return
            elif not completed and not self.policy.window.near_end(intent, gauge):
                # Half of the block, or all of it and half of its views, may be there; the token, which is remembered,
                # completes both. It has to be used up before aggregates are rebuilt, or another owner adds to them.
                completed = yield from self._complete(block, intent)
            elif missing:
                block, intent = yield from self._explain(block, intent, missing, gauge.now)
            else:
                yield from self._rebuild_aggregates(block)
                self.holdings.landed(block)
                return

    def _complete(self, block: Block, intent: Intent) -> Flow[bool]:
        bad: list[Bad] | Failed = yield FindBad(block)
        if isinstance(bad, Failed):
            yield Wait(self.policy.wait(1), bad.trouble, bad.message)
            return False
        token = self.identity.token(block.ranges)
        gauge = yield from self.measure(fresh=True)
        again = self.renew(intent, gauge)
        if not (yield from self.recommit(block, again)):
            return False
        answer: Landed | Failed = yield Insert(block.without(b.position for b in bad), token, again.deadline)
        if isinstance(answer, Failed):
            yield Wait(self.policy.wait(1), answer.trouble, answer.message)
        return isinstance(answer, Landed)

    def _again(self, block: Block, intent: Intent, gauge: Gauge) -> Flow[tuple[Block, Intent]]:
        """Nothing of the block is there and nothing can still come: this is a first attempt, with a window of its own."""
        again = replace(self.renew(intent, gauge), born=gauge.now, mark=gauge.mark)
        if not (yield from self.recommit(block, again)):
            return block, replace(again, judge=MIXED)
        return (yield from self.land(block, again))

    def _explain(self, block: Block, intent: Intent, missing: set[Position], now: int) -> Flow[tuple[Block, Intent]]:
        """Rows are there: those that are not must be bad records whose letters are still to be written."""
        bad: list[Bad] | Failed = yield FindBad(block)
        if isinstance(bad, Failed):
            yield Wait(self.policy.wait(1), bad.trouble, bad.message)
            return block, intent
        lacking = sorted(missing - {b.position for b in bad})
        if lacking:
            partition, offset = lacking[0]
            yield from self.halt(
                f"a block is half in the table and its token is forgotten: {len(lacking)} of {len(block.rows)} records "
                f"are missing, first partition {partition} offset {offset}"
            )
        # What is bad and there was good when it was loaded, and stays.
        return (yield from self.dead_letter(block, intent, [b for b in bad if b.position in missing], now))

    def _discard(self, block: Block) -> None:
        for r in block.ranges:
            if r.partition in self.holdings.claimed(block.claims):
                self.holdings.held[r.partition].next = r.first
