"""Accepts events into the SQL store: the business row and its outbox row in one transaction.

Concurrent requests share a commit. A commit costs a disk flush however many rows it holds, so while one is on its way
the next requests gather, and go together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, and_, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from ingest.outbox.contract import EventIdTaken
from ingest.outbox.tables import business_rows, outbox, prepare
from tidewatch.clock import Clock, SystemClock
from tidewatch.errors import StoreError, StoreUnavailable, TidewatchError
from tidewatch.record import decode_envelope
from tidewatch.spec import Spec
from tidewatch.sql import translated
from tidewatch.telemetry.catalogue.outbox import ACCEPTED, COMMIT_ROWS, COMMIT_SECONDS
from tidewatch.telemetry.metrics import Registry

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Identity = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Event:
    pipeline: str
    topic: str
    project: str
    event_id: str
    raw: bytes
    body: str
    tw: bytes
    key: bytes | None
    received_at: datetime

    @property
    def identity(self) -> Identity:
        return self.pipeline, self.project, self.event_id


class SqlOutbox:
    """The OutboxStore over SQLite or PostgreSQL; belongs to one event loop. `close` waits for the commit under way."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        *,
        clock: Clock | None = None,
        max_rows: int = 500,
        room: int = 10_000,
        timeout_seconds: float = 10.0,
    ) -> None:
        """At most `room` events wait; one that would come on top, or waits for too long, gets StoreUnavailable."""
        prepare(engine)
        self._engine = engine
        self._clock = clock or SystemClock()
        self._max_rows = max_rows
        self._room = room
        self._timeout = timeout_seconds
        self._waiting: list[tuple[_Event, asyncio.Future[None]]] = []
        self._committer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox-commit")
        self._accepted = registry.counter(ACCEPTED)
        self._rows = registry.histogram(COMMIT_ROWS)
        self._seconds = registry.histogram(COMMIT_SECONDS)

    async def accept(  # noqa: PLR0917 — what a request consists of
        self, spec: Spec, project: str, event_id: str, raw: bytes, tw: bytes, key: bytes | None
    ) -> None:
        """See OutboxStore.accept."""
        received = _EPOCH + timedelta(microseconds=decode_envelope(tw).received_at_us)
        event = _Event(spec.name, spec.topic.name, project, event_id, raw, raw.decode(), tw, key, received)
        if len(self._waiting) >= self._room:
            raise StoreUnavailable(
                f"{self._room} events already wait for the store",
                fix="the store is slower than the requests: see its log",
            )
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((event, done))
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_all())
        try:
            await asyncio.wait_for(done, self._timeout)
        except TimeoutError:
            raise StoreUnavailable(
                f"the store did not commit within {self._timeout:g} s", fix="check the database's load and its log"
            ) from None

    async def close(self) -> None:
        if self._committer is not None:
            await self._committer
        self._thread.shutdown(wait=False)

    async def _commit_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group, self._waiting = self._waiting[: self._max_rows], self._waiting[self._max_rows :]
                # One that gave up is left out, unless it was already on its way: its answer says so.
                group = [(event, done) for event, done in group if not done.done()]
                outcomes = await loop.run_in_executor(self._thread, self._commit, [event for event, _ in group])
                for (_, done), outcome in zip(group, outcomes, strict=True):
                    if done.done():
                        continue
                    if outcome is None:
                        done.set_result(None)
                    else:
                        done.set_exception(outcome)
        finally:
            self._committer = None

    def _commit(self, events: Sequence[_Event]) -> list[Exception | None]:
        """One outcome for each event. When the store refuses the group, each is tried alone: one cannot spoil others."""
        try:
            started = self._clock.monotonic()
            with translated("accepting events"), self._engine.begin() as connection:
                outcomes = _store(connection, events, self._clock.now())
        except StoreUnavailable as error:
            return [error] * len(events)
        except StoreError as error:
            if len(events) == 1:
                return [error]
            return [outcome for event in events for outcome in self._commit([event])]
        except Exception as error:  # a waiting request must get an answer, whatever went wrong
            failed: TidewatchError = StoreError(
                f"the event could not be stored: {type(error).__name__}", fix="see this service's log"
            )
            return [failed] * len(events)
        self._seconds.observe(self._clock.monotonic() - started)
        self._rows.observe(len(events))
        for event, outcome in zip(events, outcomes, strict=True):
            if outcome is None:
                self._accepted.labels(event.pipeline).inc()
        return outcomes


def _store(connection: Connection, events: Sequence[_Event], now: datetime) -> list[Exception | None]:
    # In one order everywhere, so that two gateways that store the same ids cannot block each other.
    first: dict[Identity, _Event] = {}
    for event in events:
        first.setdefault(event.identity, event)
    new = _insert_business_rows(connection, [first[identity] for identity in sorted(first)])
    rows = [_outbox_row(event, now) for identity, event in first.items() if identity in new]
    if rows:
        connection.execute(insert(outbox), rows)
    bodies = {identity: event.body for identity, event in first.items()}
    bodies |= _stored_bodies(connection, [identity for identity in first if identity not in new])
    return [None if bodies[event.identity] == event.body else _taken(event) for event in events]


def _insert_business_rows(connection: Connection, events: Sequence[_Event]) -> set[Identity]:
    """Identities of the rows that were not there before."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    columns = business_rows.c
    statement = (
        dialect.insert(business_rows).on_conflict_do_nothing().returning(columns.pipeline, columns.project, columns.id)
    )
    rows = [
        {
            "pipeline": event.pipeline,
            "project": event.project,
            "id": event.event_id,
            "received_at": event.received_at,
            "body": event.body,
        }
        for event in events
    ]
    return {(row[0], row[1], row[2]) for row in connection.execute(statement, rows)}


def _outbox_row(event: _Event, now: datetime) -> dict[str, Any]:
    return {
        "pipeline": event.pipeline,
        "project": event.project,
        "event_id": event.event_id,
        "topic": event.topic,
        "key": event.key,
        "value": event.raw,
        "tw": event.tw,
        "created_at": now,
    }


def _stored_bodies(connection: Connection, identities: Sequence[Identity]) -> dict[Identity, str]:
    columns = business_rows.c
    found: dict[Identity, str] = {}
    for start in range(0, len(identities), 100):
        same = [
            and_(columns.pipeline == pipeline, columns.project == project, columns.id == event_id)
            for pipeline, project, event_id in identities[start : start + 100]
        ]
        rows = connection.execute(select(columns.pipeline, columns.project, columns.id, columns.body).where(or_(*same)))
        found |= {(row[0], row[1], row[2]): row[3] for row in rows}
    return found


def _taken(event: _Event) -> EventIdTaken:
    return EventIdTaken(
        f"event id {event.event_id} was accepted before with another body",
        fix="send a new event id (or Idempotency-Key) for a new event, or the same body again",
    )
