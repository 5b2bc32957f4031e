"""Which partitions this loader holds, since when, and how far it has come in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ingest.loader.blocks import Block, Identity
from ingest.loader.effects import Closing, Commit, Committed
from ingest.loader.intents import Intent, decode, mark


@dataclass(slots=True)
class Hold:
    epoch: int
    """Of ownership: a partition that left and came back has another, and nothing begun before counts for it."""
    next: int
    """The first offset that is in no block of ours yet."""


@dataclass(frozen=True, slots=True)
class Final:
    """A range whose rows are in ClickHouse, while Kafka does not know it yet."""

    epoch: int
    closing: Closing


class Holdings:
    """Changed only by the polling thread: by its rebalance callbacks and by its course."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.held: dict[int, Hold] = {}
        self.unsettled: dict[int, Intent] = {}
        """Held partitions whose last owner left an intent; nothing new is read from them until it is settled."""
        self.unproven: set[int] = set()
        """Held partitions without an offset that a loader committed: none is there, or an operator set it. They are
        read only when the table holds nothing from there on."""
        self.undecided: frozenset[int] = frozenset()
        """Partitions of an intent that may have been committed or not. To make the block before it final alone would
        wipe the intent out, for their next owner, while it stands for the others."""
        self._finals: dict[int, Final] = {}
        self._epoch = 0

    def assigned(self, found: Mapping[int, Committed], beginnings: Mapping[int, int]) -> None:
        """Take partitions over, as their committed offsets describe them. Raises NewerIntent."""
        notes = {partition: decode(committed.metadata) for partition, committed in found.items()}
        self._epoch += 1
        for partition, committed in found.items():
            self._forget(partition)
            note = notes[partition]
            former = bool(note.topic_id) and note.topic_id != self.identity.topic_id
            if committed.offset < 0 or former:
                self.held[partition] = Hold(self._epoch, beginnings[partition])
                self.unproven.add(partition)
                continue
            self.held[partition] = Hold(self._epoch, committed.offset)
            if not note.topic_id:
                self.unproven.add(partition)
            if note.intent is not None:
                self.unsettled[partition] = note.intent

    def release(self, partitions: Iterable[int]) -> Commit | None:
        """Give partitions up in an orderly way. The commit, if any, has to be made before the broker hears of it."""
        leaving = set(partitions)
        commit = self.final_commit(leaving - self.undecided)
        self.lose(leaving)
        return commit

    def lose(self, partitions: Iterable[int]) -> None:
        """They are someone else's already: nothing may be committed for them."""
        for partition in partitions:
            self._forget(partition)

    def claims(self, partitions: Iterable[int]) -> dict[int, int]:
        return {p: self.held[p].epoch for p in partitions if p in self.held}

    def claimed(self, claims: Mapping[int, int]) -> dict[int, int]:
        """Those of the claims that still hold."""
        return {p: epoch for p, epoch in claims.items() if p in self.held and self.held[p].epoch == epoch}

    def landed(self, block: Block) -> None:
        """The block's rows are in ClickHouse. May be said twice."""
        dead = {r.partition: 0 for r in block.ranges}
        for partition, _ in block.skip:
            dead[partition] += 1
        mine = self.claimed(block.claims)
        for r in block.ranges:
            if r.partition in mine:
                self._finals[r.partition] = Final(mine[r.partition], Closing(r, block, dead[r.partition]))
                self.held[r.partition].next = max(self.held[r.partition].next, r.last + 1)

    def final_commit(self, only: Iterable[int] | None = None) -> Commit | None:
        """What makes the landed ranges final, for partitions held under the epoch in which they were claimed."""
        among = set(self._finals if only is None else only)
        finals = {
            p: final
            for p, final in self._finals.items()
            if p in among and p in self.held and self.held[p].epoch == final.epoch
        }
        if not finals:
            return None
        idle = mark(self.identity.topic_id)
        offsets = {p: Committed(final.closing.range.last + 1, idle) for p, final in finals.items()}
        return Commit(offsets, tuple(final.closing for final in finals.values()))

    def closed(self, commit: Commit) -> None:
        """The commit was made: its ranges are final."""
        for closing in commit.closes:
            final = self._finals.get(closing.range.partition)
            if final is not None and final.closing is closing:
                del self._finals[closing.range.partition]

    @property
    def readable(self) -> dict[int, int]:
        """Where to read on, by partition, in those that are settled."""
        return {p: h.next for p, h in self.held.items() if p not in self.unsettled and p not in self.unproven}

    @property
    def blocked(self) -> bool:
        return bool(self.unsettled or self.unproven)

    def _forget(self, partition: int) -> None:
        self.held.pop(partition, None)
        self.unsettled.pop(partition, None)
        self.unproven.discard(partition)
        self._finals.pop(partition, None)
