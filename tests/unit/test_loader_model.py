"""The algorithm against a hostile world, and the proof that each of its rules is needed: without any one it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from loader_world import World

from ingest.loader import effects as e
from ingest.loader.blocks import Block, Identity, Ranges
from ingest.loader.holdings import Holdings
from ingest.loader.intents import Intent, encode, mark
from ingest.loader.policy import Window
from ingest.loader.recovery import Loading

ALL = frozenset({"retention", "recreate", "judge", "expiry"})


def verdict(world: World) -> list[str]:
    try:
        return world.run().verdict()
    except AssertionError as error:  # it never came to rest, or broke a rule of the world
        return [str(error)]


class HastyDeploys(World):
    """Loaders are replaced, with another idea of what is bad, while their inserts are still on their way."""

    DEADLINE = 25
    hasty = False

    def do_insert(self, process: Any, insert: e.Insert) -> Any:
        if self.chance(0.2):
            self.late.append((self.now + self.rng.randint(5, 20), insert, process))
            self.hasty = True
            return e.Failed(e.Trouble.UNAVAILABLE, "no answer, and still on its way")
        return super().do_insert(process, insert)

    def disturb(self) -> None:
        if self.hasty:
            self.hasty = False
            self.deploy()
        super().disturb()


class LongSleeps(World):
    """A loader that has just sent an insert falls asleep, keeps its partitions, and wakes when the window has moved on."""

    def do_insert(self, process: Any, insert: e.Insert) -> Any:
        answer = super().do_insert(process, insert)
        if self.chance(0.05) and len(self.processes) > 1:
            process.frozen = self.now + self.rng.randint(150, 400)
            return e.Failed(e.Trouble.UNAVAILABLE, "the answer was lost")
        return answer


@pytest.mark.parametrize("faults", [(), ("retention",), ("judge",), ("recreate",), ("expiry",), ("judge", "recreate")])
def test_every_record_lands_exactly_once(faults: tuple[str, ...]) -> None:
    for seed in range(40):
        assert verdict(World(seed, faults=frozenset(faults))) == [], f"seed {seed}"


def test_every_record_lands_exactly_once_when_loaders_are_replaced_in_haste() -> None:
    for seed in range(40):
        assert verdict(HastyDeploys(seed)) == [], f"seed {seed}"


def test_every_record_lands_exactly_once_when_loaders_sleep_for_long() -> None:
    for seed in range(40):
        assert verdict(LongSleeps(seed)) == [], f"seed {seed}"


# -- one rule left out, each


class NoIntent(Loading):
    """Offsets are committed, and nothing says what is being inserted."""

    def intend(self, block: Block, intent: Intent) -> e.Commit:
        said = super().intend(block, intent)
        return e.Commit({p: e.Committed(c.offset, mark(self.identity.topic_id)) for p, c in said.offsets.items()})


class FinalBeforeInserted(Loading):
    """The end of the block is committed before its rows are there."""

    def intend(self, block: Block, intent: Intent) -> e.Commit:
        mine = self.holdings.claimed(block.claims)
        ends = {r.partition: r.last + 1 for r in block.ranges if r.partition in mine}
        return e.Commit({p: e.Committed(end, mark(self.identity.topic_id)) for p, end in ends.items()})


class TokenWithoutTopicId(Identity):
    def token(self, ranges: Ranges) -> str:
        return Identity("c", "g", "").token(ranges)


class OwnPartOnly(Loading):
    """What a former owner left is rebuilt for the own partitions alone."""

    def _recover(self, intent: Intent, claims: Mapping[int, int]) -> e.Flow[Block | None]:
        own = tuple(r for r in intent.ranges if r.partition in claims)
        block = yield from self._rebuild(replace(intent, ranges=own), claims)
        if block is not None:
            yield from self.land(block, replace(intent, ranges=own))
        return block


class CommitWithoutOwnership(Loading):
    """An intent is renewed in all partitions of the block, also in those that have left."""

    def intend(self, block: Block, intent: Intent) -> e.Commit:
        text = encode(intent)
        return e.Commit({r.partition: e.Committed(r.first, text) for r in block.ranges})


class Wiping(Holdings):
    """A partition that leaves is made final even where an intent of its next block may stand already."""

    def release(self, partitions: Any) -> e.Commit | None:
        self.undecided = frozenset()
        return super().release(partitions)


class FinalOverIntent(Loading):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.holdings = Wiping(self.identity)


class InsertWithoutCommit(Loading):
    """A commit that failed is taken for made."""

    def make(self, commit: e.Commit) -> e.Flow[bool]:
        yield commit
        self.holdings.closed(commit)
        return True


class _Intercepted(Loading):
    """Looks at each effect of `land`, and may give the block up and begin another in its place."""

    def gives_up(self, block: Block, effect: e.Effect, answer: Any) -> bool:
        raise NotImplementedError

    def land(self, block: Block, intent: Intent) -> e.Flow[tuple[Block, Intent]]:
        flow = super().land(block, intent)
        answer: Any = None
        while True:
            try:
                effect = flow.send(answer)
            except StopIteration as end:
                return end.value
            answer = yield effect
            if self.gives_up(block, effect, answer):
                mine = self.holdings.claimed(block.claims)
                for r in block.ranges:
                    if r.partition in mine:
                        self.holdings.held[r.partition].next = r.first
                yield e.Rewind()
                return block, intent


class DroppedOnRevoke(_Intercepted):
    """A block is begun anew when one of its partitions leaves."""

    def gives_up(self, block: Block, effect: e.Effect, answer: Any) -> bool:
        return 0 < len(self.holdings.claimed(block.claims)) < len(block.claims)


class RetriedWithAnotherRange(_Intercepted):
    """An insert without an answer is followed by whatever has come in meanwhile."""

    def gives_up(self, block: Block, effect: e.Effect, answer: Any) -> bool:
        return isinstance(answer, e.Failed) and answer.trouble is e.Trouble.UNAVAILABLE


class _Translated(Loading):
    """Changes what `land` asks for."""

    def translate(self, effect: e.Effect) -> e.Flow[Any]:
        raise NotImplementedError

    def land(self, block: Block, intent: Intent) -> e.Flow[tuple[Block, Intent]]:
        flow = super().land(block, intent)
        answer: Any = None
        while True:
            try:
                effect = flow.send(answer)
            except StopIteration as end:
                return end.value
            answer = yield from self.translate(effect)


class BisectedByInserting(_Translated):
    """When an insert fails, its halves are tried."""

    def translate(self, effect: e.Effect) -> e.Flow[Any]:
        answer = yield effect
        if isinstance(effect, e.Insert) and isinstance(answer, e.Failed) and answer.trouble is e.Trouble.VIEW:
            places = [(row.partition, row.offset) for row in effect.block.rows]
            for half in (places[: len(places) // 2], places[len(places) // 2 :]):
                answer = yield effect._replace(block=effect.block.without(half), token=f"{effect.token}{len(half)}")
        return answer


class NewTokenAfterAView(_Translated):
    """A failed view is taken for a sign that nothing was written."""

    def translate(self, effect: e.Effect) -> e.Flow[Any]:
        answer = yield effect
        if isinstance(effect, e.Insert) and isinstance(answer, e.Failed) and answer.trouble is e.Trouble.VIEW:
            answer = yield effect._replace(token=f"{effect.token}'")
        return answer


class TokenOfWhatIsHeld(_Translated):
    """The token names the ranges of the partitions held just now, not those of the intent."""

    def translate(self, effect: e.Effect) -> e.Flow[Any]:
        if isinstance(effect, e.Insert):
            held = tuple(r for r in effect.block.ranges if r.partition in self.holdings.held)
            effect = effect._replace(token=self.identity.token(held))
        return (yield effect)


class NoDeadline(_Translated):
    """The server takes an insert however late it comes."""

    def translate(self, effect: e.Effect) -> e.Flow[Any]:
        return (yield effect._replace(deadline=10**12) if isinstance(effect, e.Insert) else effect)


class TokenTrusted(Loading):
    """The table is never read, whatever happened since."""

    def read_back(self, block: Block, intent: Intent, *, contested: bool = False) -> e.Flow[None]:
        yield from self.land(block, intent)


class OthersLettersToo(Loading):
    """Letters are written for bad records of partitions that are someone else's."""

    def dead_letter(self, block: Block, intent: Intent, bad: list[e.Bad], now: int) -> e.Flow[tuple[Block, Intent]]:
        written = yield from self.write_letters(block, intent, bad)
        return (
            (block, intent) if written.letters == intent.letters else (block.without(b.position for b in bad), written)
        )


class LettersForgotten(Loading):
    """A rebuilt block does not ask which of its records have letters."""

    def _rebuild(self, intent: Intent, claims: Mapping[int, int]) -> e.Flow[Block | None]:
        block = yield from super()._rebuild(replace(intent, letters=()), claims)
        return block


class LettersApart(World):
    """Letters are produced, and then the offsets are committed: no transaction."""

    def do_bury(self, process: Any, bury: e.Bury) -> Any:
        before = dict(self.kafka.committed)
        result = super().do_bury(process, bury)
        if self.chance(0.3):
            self.kafka.committed = before
            return e.CommitResult.AGAIN, ()
        return result


class OutcomeGuessed(Loading):
    """A transaction without an answer is taken for one that was not made."""

    def write_letters(self, block: Block, intent: Intent, bad: list[e.Bad]) -> e.Flow[Intent]:
        result, letters = yield e.Bury(
            block, bad, lambda told: self.intend(block, replace(intent, letters=intent.letters + told)).offsets
        )
        return replace(intent, letters=intent.letters + letters) if result is e.CommitResult.DONE else intent


class AggregatesLeft(Loading):
    """What retention took from the log is not looked for in the aggregates."""

    def _rebuild_aggregates(self, block: Block) -> e.Flow[None]:
        yield from ()


class BeginningTrusted(Loading):
    """A partition without a committed offset is read from its beginning, whatever the table holds."""

    def _prove(self, partitions: tuple[int, ...]) -> e.Flow[None]:
        self.holdings.unproven.difference_update(partitions)
        yield e.Resume(partitions)


def world(loading: type[Loading] = Loading, *, of: type[World] = World, **how: Any) -> Callable[[int], World]:
    return lambda seed: of(seed, loading, **how)


MUTANTS: dict[str, Callable[[int], World]] = {
    "no intent": world(NoIntent),
    "final before inserted": world(FinalBeforeInserted),
    "token of what is held": world(TokenOfWhatIsHeld),
    "token without the topic's id": world(identity=TokenWithoutTopicId, faults=frozenset({"recreate"})),
    "own part of a block only": world(OwnPartOnly),
    "commit without ownership": world(CommitWithoutOwnership),
    "final over an intent": world(FinalOverIntent),
    "insert without a commit": world(InsertWithoutCommit),
    "block dropped on revoke": world(DroppedOnRevoke),
    "retry with another range": world(RetriedWithAnotherRange),
    "bisect by inserting": world(BisectedByInserting),
    "new token after a view failed": world(NewTokenAfterAView),
    "no deadline": world(NoDeadline),
    "no window on the table": world(table_window=0),
    "no window on the view's target": world(view_window=0),
    "window not watched": world(of=LongSleeps, policy={"window": Window()}),
    "table not read at the window's end": world(TokenTrusted, of=LongSleeps),
    "another judge not noticed": world(
        TokenTrusted, faults=frozenset({"judge"}), table_window=10**6, view_window=10**6
    ),
    "table read before inserts ended": world(
        policy={"grace_seconds": -(10**6)}, faults=frozenset({"judge", "retention"})
    ),
    "others' letters": world(OthersLettersToo),
    "letters forgotten": world(LettersForgotten),
    "letters outside the transaction": world(of=LettersApart),
    "outcome of a transaction guessed": world(OutcomeGuessed),
    "aggregates left after retention": world(AggregatesLeft, faults=frozenset({"retention"})),
    "beginning trusted": world(BeginningTrusted, faults=frozenset({"expiry"})),
}


@pytest.mark.parametrize("rule", MUTANTS)
def test_without_this_rule_records_are_lost_or_doubled(rule: str) -> None:
    assert any(verdict(MUTANTS[rule](seed)) for seed in range(600)), f"nothing goes wrong with {rule}"
