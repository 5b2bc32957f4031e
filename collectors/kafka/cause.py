"""Why a group is behind: the pattern of which partitions suffer, as a pure function.

Each cause needs a contrast. One partition stuck beside others that move is a record that cannot be processed; all of
one member's is that member; all on one leader is that broker. Without a contrast there is no telling, and it says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum

# A partition that gets this multiple of its fair share is hot.
_HOT = 3.0
_ALL = 0.9


class Cause(StrEnum):
    NO_MEMBERS = "no_members"
    REBALANCE_STORM = "rebalance_storm"
    POISON_RECORD = "poison_record"
    HUNG_MEMBER = "hung_member"
    SLOW_BROKER = "slow_broker"
    HOT_KEY = "hot_key"
    CAPACITY = "capacity"
    DOWNSTREAM = "downstream"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Partition:
    """A partition of the group that has something to do: it is behind, or it moves."""

    topic: str
    number: int
    commit: int
    lag: int
    stuck: bool
    growing: bool
    member: str | None
    leader: int
    produced: float
    """A second."""
    consumed: float

    @property
    def suffers(self) -> bool:
        return self.stuck or self.growing

    @property
    def moves(self) -> bool:
        return self.consumed > 0 and not self.stuck

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


@dataclass(frozen=True)
class Verdict:
    cause: Cause
    detail: str
    """Names what to look at; reads the same for as long as the finding is the same."""


def likely_cause(partitions: Sequence[Partition], *, members: int | None, storm: bool) -> Verdict | None:
    """None when no partition suffers. `members` None: not known."""
    suffering = [p for p in partitions if p.suffers]
    if not suffering:
        return None
    if members == 0:
        return Verdict(Cause.NO_MEMBERS, "the group has no members: start its consumers")
    if storm:
        return Verdict(
            Cause.REBALANCE_STORM, "the group rebalances again and again: nobody keeps partitions long enough"
        )
    moving = [p for p in partitions if p.moves and not p.suffers]
    for rule in (_poison, _hung_member, _slow_broker, _hot_key):
        if verdict := rule(suffering, moving):
            return verdict
    return _everything(suffering, moving, members)


def _poison(suffering: Sequence[Partition], moving: Sequence[Partition]) -> Verdict | None:
    stuck = [p for p in suffering if p.stuck]
    if len(stuck) != 1 or len(suffering) != 1:
        return None
    one = stuck[0]
    beside = [p for p in moving if p.member == one.member] if one.member else moving
    if not beside:
        return None
    return Verdict(Cause.POISON_RECORD, f"{one} stands at offset {one.commit} while its consumer moves elsewhere")


def _hung_member(suffering: Sequence[Partition], moving: Sequence[Partition]) -> Verdict | None:
    if any(p.member is None for p in suffering) or not all(p.stuck for p in suffering):
        return None
    member = _only(suffering, moving, lambda p: p.member)
    if member is None:
        return None
    alone = f", or cannot get past offset {suffering[0].commit} of {suffering[0]}, its only busy partition"
    return Verdict(
        Cause.HUNG_MEMBER, f"member {member} commits nothing while others do{alone if len(suffering) == 1 else ''}"
    )


def _slow_broker(suffering: Sequence[Partition], moving: Sequence[Partition]) -> Verdict | None:
    if len(suffering) < 2:
        return None
    leader = _only(suffering, moving, lambda p: p.leader)
    return None if leader is None else Verdict(Cause.SLOW_BROKER, f"every partition behind is led by broker {leader}")


def _hot_key(suffering: Sequence[Partition], moving: Sequence[Partition]) -> Verdict | None:
    by_topic: dict[str, list[Partition]] = defaultdict(list)
    for p in (*suffering, *moving):
        by_topic[p.topic].append(p)
    if len(suffering) != 1 or suffering[0].stuck:
        return None
    one = suffering[0]
    siblings = by_topic[one.topic]
    total = sum(p.produced for p in siblings)
    # With few partitions three fair shares are more than everything; then most of everything is enough.
    enough = min(_HOT, _ALL * len(siblings))
    if len(siblings) < 2 or total <= 0 or one.produced * len(siblings) < enough * total:
        return None
    # Rounded, so that the text stays while the share wobbles.
    share = round(10 * one.produced / total) * 10
    return Verdict(
        Cause.HOT_KEY, f"{one} takes about {share} % of what the topic's {len(siblings)} busy partitions get"
    )


def _everything(suffering: Sequence[Partition], moving: Sequence[Partition], members: int | None) -> Verdict:
    if len(suffering) == 1 and not moving:
        one = suffering[0]
        at = f" at offset {one.commit}" if one.stuck else ""
        return Verdict(Cause.UNCLEAR, f"only {one} has records{at}: a record, its consumer or what is behind it")
    if len(suffering) < _ALL * (len(suffering) + len(moving)):
        return Verdict(Cause.UNCLEAR, f"{len(suffering)} partitions, of no one member, broker or key")
    if all(p.stuck for p in suffering):
        return Verdict(Cause.DOWNSTREAM, "nothing is committed anywhere: look at what the consumers write to")
    if members is not None and members < len({(p.topic, p.number) for p in suffering}):
        return Verdict(
            Cause.CAPACITY, "every partition falls behind while it moves: more members, or a slow downstream"
        )
    return Verdict(Cause.DOWNSTREAM, "every partition falls behind and each has a member: look at what they write to")


def _only(
    suffering: Sequence[Partition], moving: Sequence[Partition], key: Callable[[Partition], Hashable]
) -> Hashable | None:
    """What all that suffer have in common, and none that moves has; it takes one that moves to tell."""
    common = {key(p) for p in suffering}
    if len(common) != 1 or not moving or common & {key(p) for p in moving}:
        return None
    return common.pop()
