"""The relay's algorithm, one step at a time: what the store and Kafka remember decides what happens next.

    1  take over    raise the epoch in the store: a relay that started earlier can claim and mark nothing more
    2  connect      a new producer under the pipeline's transactional id: Kafka fences the earlier relay, aborts what it
                    left unfinished, and says the number of the last batch that was committed (the *mark*)
    3  compare      the store's open batch with the mark: already in Kafka, or not; where that cannot tell, look in
                    the topic itself
    4  claim        give waiting rows the next batch number, in one SQL transaction
    5  send         the records and the number, in one Kafka transaction
    6  mark sent    in one SQL transaction; then 4 again

A crash between any two steps leaves a state that 1 to 3 settle. `Relay.step` does one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from hashlib import sha256
from typing import Protocol

from tidewatch.errors import Refused, TidewatchError


@dataclass(frozen=True, slots=True)
class Row:
    id: int
    key: bytes | None
    value: bytes
    tw: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Mark:
    """What is stored in Kafka with each transaction; the digest tells apart two batches that share a number."""

    batch: int
    digest: str

    def encode(self) -> str:
        return f"{self.batch};{self.digest}"

    @classmethod
    def decode(cls, text: str) -> Mark:
        batch, _, digest = text.partition(";")
        return cls(int(batch), digest)


@dataclass(frozen=True, slots=True)
class Batch:
    mark: Mark
    rows: tuple[Row, ...]


def digest(rows: Sequence[Row]) -> str:
    """Of the record headers, which name each event and when it came."""
    return sha256(b"\n".join(row.tw for row in rows)).hexdigest()[:32]


class RelayFenced(Refused):
    """Another relay of the same pipeline has taken over."""


class ProducerLost(TidewatchError):
    """The producer is of no use any more: fenced, or in a state that nobody knows. Begin again by comparing."""

    retryable = True


class Claims(Protocol):
    """The store's side. Everything but `take_over` raises RelayFenced once another relay has taken over."""

    def take_over(self) -> None: ...

    def check(self) -> None:
        """Only that: whether another relay has taken over."""
        ...

    def open(self) -> tuple[Batch | None, int]:
        """The batch that was claimed and not marked sent, and the highest number ever claimed (0: none)."""
        ...

    def claim(self, after: int) -> Batch | None:
        """Number waiting rows as a batch, `after` at the least plus one. None when no row waits."""
        ...

    def mark_sent(self, batch: Batch) -> None: ...

    def unsent(self) -> tuple[Sequence[bytes], datetime | None]:
        """The `tw` of every row not marked sent, claimed or not, and when the oldest was created."""
        ...

    def settle(self, found: set[bytes], after: int) -> None:
        """Mark the rows whose `tw` was found in the topic as sent, under a number greater than `after`; the others
        wait again, unclaimed, and no batch is open.
        """
        ...


class Log(Protocol):
    """Kafka's side. Raises KafkaUnavailable, or ProducerLost."""

    def connect(self) -> Mark | None:
        """Fence the relay before, settle its transaction, and say what the last committed one was."""
        ...

    def send(self, batch: Batch) -> None:
        """Return once the records and the batch's mark are committed, together."""
        ...

    def find(self, tws: Sequence[bytes], since: datetime) -> set[bytes]:
        """Those of `tws` that stand in the topic. Raises Refused when the topic does not reach back to `since`."""
        ...


class Verdict(Enum):
    NOTHING_OPEN = auto()
    IN_KAFKA = auto()
    NOT_IN_KAFKA = auto()
    UNCERTAIN = auto()


def compare(open_batch: Batch | None, last: int, mark: Mark | None) -> Verdict:
    """What the two memories say of the open batch, `last` being the highest number that the store knows.

    Uncertain: Kafka forgot (offsets of an idle group expire, or the group was deleted), or the store is older than
    Kafka (restored from a backup), so that one number may stand for two batches.
    """
    if mark is not None and mark.batch > last:
        return Verdict.UNCERTAIN
    if open_batch is None:
        return Verdict.NOTHING_OPEN
    if mark == open_batch.mark:
        return Verdict.IN_KAFKA
    if mark is not None and mark.batch == open_batch.mark.batch - 1:
        return Verdict.NOT_IN_KAFKA
    return Verdict.UNCERTAIN


class State(Enum):
    STARTED = auto()
    TAKEN_OVER = auto()
    CONNECTED = auto()
    READY = auto()
    CLAIMED = auto()
    SENT = auto()


class Relay:
    """Not safe to share between threads. After an exception from `step`, call `lost` (or drop the relay)."""

    def __init__(self, claims: Claims, log: Log) -> None:
        self._claims = claims
        self._log = log
        self._mark: Mark | None = None
        self._batch: Batch | None = None
        self._floor = 0
        self.state = State.STARTED

    def lost(self) -> None:
        """Kafka or the store went away in the middle: forget what we believe, and compare again.

        Raises RelayFenced when another relay has taken over, which is final.
        """
        if self.state is not State.STARTED:
            self.state = State.TAKEN_OVER
        self._batch = None
        if self.state is State.TAKEN_OVER:
            self._claims.check()

    def step(self) -> Batch | None:
        """Do the next step. Returns the batch when this step marked one as sent."""
        match self.state:
            case State.STARTED:
                self._claims.take_over()
                self.state = State.TAKEN_OVER
            case State.TAKEN_OVER:
                self._mark = self._log.connect()
                self.state = State.CONNECTED
            case State.CONNECTED:
                self._recover()
            case State.READY:
                self._batch = self._claims.claim(self._floor)
                self.state = State.READY if self._batch is None else State.CLAIMED
            case State.CLAIMED:
                self._log.send(self._current())
                self.state = State.SENT
            case State.SENT:
                batch = self._current()
                self._claims.mark_sent(batch)
                self._floor, self._batch = batch.mark.batch, None
                self.state = State.READY
                return batch
        return None

    def _current(self) -> Batch:
        if self._batch is None:
            raise AssertionError(f"no batch in state {self.state}")
        return self._batch

    def _recover(self) -> None:
        open_batch, last = self._claims.open()
        self._floor = max(last, self._mark.batch if self._mark else 0)
        match compare(open_batch, last, self._mark):
            case Verdict.NOTHING_OPEN:
                self.state = State.READY
            case Verdict.IN_KAFKA:
                self._batch, self.state = open_batch, State.SENT
            case Verdict.NOT_IN_KAFKA:
                self._batch, self.state = open_batch, State.CLAIMED
            case Verdict.UNCERTAIN:
                self._look()
                self.state = State.READY

    def _look(self) -> None:
        """Neither memory is to be trusted: the topic decides, row by row."""
        tws, since = self._claims.unsent()
        found = self._log.find(tws, since) if since is not None else set()
        self._claims.settle(found, self._floor)
        self._floor += 1
