"""The relay's side of the SQL store: batches claimed by number, never by a cursor over ids.

Ids come from a sequence, and sequences commit out of order: a cursor that has passed 7 never sees a 6 that commits
late. A row without a batch number is waiting, whatever its id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, func, insert, select, update

from ingest.outbox.steps import Batch, Mark, RelayFenced, Row, digest
from ingest.outbox.tables import business_rows, outbox, outbox_batches, outbox_relays
from tidewatch.clock import Clock
from tidewatch.sql import reading, translated

_PURGE_AT_ONCE = 5_000
_IDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Depth:
    """`committed == emitted + waiting`, unless somebody tampered with the tables."""

    committed: int
    emitted: int
    waiting: int
    oldest_waiting: datetime | None


class SqlClaims:
    """Claims (steps.py) over SQLite or PostgreSQL, for one pipeline and one relay."""

    def __init__(
        self,
        engine: Engine,
        pipeline: str,
        holder: str,
        clock: Clock,
        *,
        max_rows: int = 500,
        max_bytes: int = 4 << 20,
    ) -> None:
        """`holder` names this relay to the one that it fences, and to operators."""
        self._engine = engine
        self._pipeline = pipeline
        self._holder = holder
        self._clock = clock
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._epoch = 0

    def take_over(self) -> None:
        relays = outbox_relays.c
        mine = {"holder": self._holder, "since": self._clock.now()}
        with translated("taking over the outbox"), self._engine.begin() as connection:
            row = select(relays.epoch).where(relays.pipeline == self._pipeline).with_for_update()
            found = connection.execute(row).scalar()
            self._epoch = (found or 0) + 1
            if found is None:
                connection.execute(insert(outbox_relays).values(pipeline=self._pipeline, epoch=self._epoch, **mine))
            else:
                change = update(outbox_relays).where(relays.pipeline == self._pipeline)
                connection.execute(change.values(epoch=self._epoch, **mine))

    def check(self) -> None:
        with self._held("checking who relays"):
            pass

    def open(self) -> tuple[Batch | None, int]:
        batches = outbox_batches.c
        with self._held("reading the open batch") as connection:
            of_pipeline = batches.pipeline == self._pipeline
            last = connection.execute(select(func.max(batches.batch)).where(of_pipeline)).scalar() or 0
            unsent = select(batches.batch, batches.digest).where(of_pipeline, batches.sent_at.is_(None))
            found = connection.execute(unsent).one_or_none()
            if found is None:
                return None, last
            columns = outbox.c
            rows = self._rows(connection, and_(columns.pipeline == self._pipeline, columns.batch == found.batch))
            return Batch(Mark(found.batch, found.digest), rows), last

    def claim(self, after: int) -> Batch | None:
        if not self._any_waiting():
            return None
        with self._held("claiming a batch") as connection:
            rows = self._rows(connection, outbox.c.id.in_(self._choose(connection)))
            if not rows:
                return None
            batches = outbox_batches.c
            highest = select(func.max(batches.batch)).where(batches.pipeline == self._pipeline)
            number = max(connection.execute(highest).scalar() or 0, after) + 1
            batch = Batch(Mark(number, digest(rows)), rows)
            self._number(connection, [row.id for row in rows], number)
            self._record(connection, batch.mark, len(rows), sent_at=None)
            return batch

    def mark_sent(self, batch: Batch) -> None:
        now = self._clock.now()
        with self._held("marking a batch as sent") as connection:
            mine = and_(outbox.c.pipeline == self._pipeline, outbox.c.batch == batch.mark.batch)
            connection.execute(update(outbox).where(mine).values(sent_at=now))
            self._close(connection, batch.mark.batch, now)

    def unsent(self) -> tuple[Sequence[bytes], datetime | None]:
        columns = outbox.c
        with self._held("reading what was not sent") as connection:
            rows = connection.execute(
                select(columns.tw, columns.created_at).where(
                    columns.pipeline == self._pipeline, columns.sent_at.is_(None)
                )
            ).all()
        return [row.tw for row in rows], min((aware(row.created_at) for row in rows), default=None)

    def settle(self, found: set[bytes], after: int) -> None:
        columns, batches = outbox.c, outbox_batches.c
        now = self._clock.now()
        with self._held("settling what was sent") as connection:
            mine = and_(columns.pipeline == self._pipeline, columns.sent_at.is_(None))
            connection.execute(update(outbox).where(mine).values(batch=None))
            still_open = and_(batches.pipeline == self._pipeline, batches.sent_at.is_(None))
            connection.execute(update(outbox_batches).where(still_open).values(sent_at=now, rows=0))
            rows = [row for row in self._rows(connection, mine) if row.tw in found]
            if rows:
                number = after + 1
                self._number(connection, [row.id for row in rows], number, sent_at=now)
                self._record(connection, Mark(number, digest(rows)), len(rows), sent_at=now)

    @contextmanager
    def _held(self, doing: str) -> Iterator[Connection]:
        """A transaction in which this relay still is the one that may act."""
        with translated(doing), self._engine.begin() as connection:
            self._refuse_if_replaced(connection, lock=True)
            yield connection

    def _refuse_if_replaced(self, connection: Connection, *, lock: bool) -> None:
        relays = outbox_relays.c
        row = select(relays.epoch, relays.holder).where(relays.pipeline == self._pipeline)
        found = connection.execute(row.with_for_update() if lock else row).one_or_none()
        if found is None or found.epoch != self._epoch:
            holder = found.holder if found else "nobody"
            raise RelayFenced(
                f"this relay of {self._pipeline} was replaced by {holder}",
                fix="run one relay; this one ends, and nothing was lost or doubled",
            )

    def _any_waiting(self) -> bool:
        """Asked many times a second, so without a lock; an idle relay learns here that it was replaced."""
        columns = outbox.c
        waiting = select(columns.id).where(columns.pipeline == self._pipeline, columns.batch.is_(None)).limit(1)
        with translated("looking for waiting rows"), reading(self._engine) as connection:
            self._refuse_if_replaced(connection, lock=False)
            return connection.execute(waiting).first() is not None

    def _choose(self, connection: Connection) -> list[int]:
        columns = outbox.c
        waiting = (
            select(columns.id, func.length(columns.value))
            .where(columns.pipeline == self._pipeline, columns.batch.is_(None))
            .order_by(columns.id)
            .limit(self._max_rows)
        )
        chosen: list[int] = []
        room = self._max_bytes
        for row_id, size in connection.execute(waiting):
            room -= size
            if chosen and room < 0:
                break
            chosen.append(row_id)
        return chosen

    def _rows(self, connection: Connection, where: Any) -> tuple[Row, ...]:
        columns = outbox.c
        found = connection.execute(
            select(columns.id, columns.key, columns.value, columns.tw, columns.created_at)
            .where(where)
            .order_by(columns.id)
        )
        return tuple(Row(r.id, r.key, r.value, r.tw, aware(r.created_at)) for r in found)

    def _number(self, connection: Connection, ids: Sequence[int], number: int, sent_at: datetime | None = None) -> None:
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = outbox.c.id.in_(ids[start : start + _IDS_AT_ONCE])
            connection.execute(update(outbox).where(some).values(batch=number, sent_at=sent_at))

    def _record(self, connection: Connection, mark: Mark, rows: int, sent_at: datetime | None) -> None:
        row = {"pipeline": self._pipeline, "batch": mark.batch, "digest": mark.digest, "rows": rows}
        times = {"claimed_at": self._clock.now(), "sent_at": sent_at}
        connection.execute(insert(outbox_batches).values(**row, **times))

    def _close(self, connection: Connection, number: int, now: datetime) -> None:
        batches = outbox_batches.c
        this = and_(batches.pipeline == self._pipeline, batches.batch == number)
        connection.execute(update(outbox_batches).where(this).values(sent_at=now))


def waiting(engine: Engine, pipeline: str) -> tuple[int, datetime | None]:
    """How many rows Kafka does not have yet, and since when the oldest waits."""
    rows = outbox.c
    unsent = select(func.count(), func.min(rows.created_at)).where(rows.pipeline == pipeline, rows.sent_at.is_(None))
    with translated("measuring the outbox"), reading(engine) as connection:
        count, oldest = connection.execute(unsent).one()
    return count, aware(oldest) if oldest is not None else None


def depth(engine: Engine, pipeline: str) -> Depth:
    """All of it, in one snapshot; counts every business row, so not for each second."""
    rows, batches = outbox.c, outbox_batches.c
    unsent = select(func.count(), func.min(rows.created_at)).where(rows.pipeline == pipeline, rows.sent_at.is_(None))
    emitted = select(func.sum(batches.rows)).where(batches.pipeline == pipeline, batches.sent_at.is_not(None))
    committed = select(func.count()).select_from(business_rows).where(business_rows.c.pipeline == pipeline)
    statement = select(committed.scalar_subquery(), emitted.scalar_subquery(), unsent.subquery())
    with translated("measuring the outbox"), reading(engine) as connection:
        total, sent, count, oldest = connection.execute(statement).one()
    return Depth(total, int(sent or 0), count, aware(oldest) if oldest is not None else None)


def purge(engine: Engine, before: datetime) -> int:
    """Remove rows sent before that time, some thousands at once so that nobody waits long. The business rows stay."""
    old = select(outbox.c.id).where(outbox.c.sent_at < before).limit(_PURGE_AT_ONCE)
    removed = 0
    while True:
        with translated("purging sent rows"), engine.begin() as connection:
            count = connection.execute(delete(outbox).where(outbox.c.id.in_(old))).rowcount
        removed += count
        if count < _PURGE_AT_ONCE:
            return removed


def aware(time: datetime) -> datetime:
    """SQLite gives times back without their zone; they were stored in UTC."""
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
