"""One suite for the outbox's tables, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, func, select, text, update

from ingest.outbox.claims import SqlClaims, depth, purge, waiting
from ingest.outbox.contract import EventIdTaken
from ingest.outbox.steps import RelayFenced
from ingest.outbox.store import SqlOutbox
from ingest.outbox.tables import business_rows, outbox, outbox_batches, prepare, versions
from tidewatch.clock import ManualClock
from tidewatch.errors import StoreError, StoreUnavailable
from tidewatch.record import Envelope
from tidewatch.settings import Store
from tidewatch.spec import load
from tidewatch.sql import open_store, reading
from tidewatch.telemetry.catalogue.outbox import COMMIT_ROWS
from tidewatch.telemetry.metrics import Registry

ORDERS = load(Path(__file__).parents[2] / "pipelines" / "orders.yaml")
TRACE = f"00-{1:032x}-{2:016x}-00"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, fresh: str) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    server: Any = request.getfixturevalue("postgres")
    admin = create_engine(server.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE t{fresh}"))
    base = admin.url.set(database=f"t{fresh}").render_as_string(hide_password=False)
    yield base
    gc.collect()
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE t{fresh} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = open_store(Store(url=SecretStr(url)))
    prepare(made)
    yield made
    made.dispose()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC))


def tw(event_id: str, project: str = "shop") -> bytes:
    return Envelope(event_id, 1_772_366_400_000_000, 1, project, TRACE).encode()


def accepting(
    engine: Engine, clock: ManualClock, *requests: tuple[str, bytes], registry: Registry | None = None
) -> list[Any]:
    """Send the requests at once; the outcome of each, None or the error."""

    async def run() -> list[Any]:
        store = SqlOutbox(engine, registry or Registry("test"), clock=clock)
        calls: list[Awaitable[None]] = [
            store.accept(ORDERS, "shop", event_id, raw, tw(event_id), b"customer") for event_id, raw in requests
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        await store.close()
        return list(outcomes)

    return asyncio.run(run())


def accept_many(engine: Engine, clock: ManualClock, count: int, start: int = 0) -> None:
    outcomes = accepting(engine, clock, *[(f"o{i}", b'{"n":%d}' % i) for i in range(start, start + count)])
    assert outcomes == [None] * count


def count(engine: Engine, table: Any) -> int:
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar() or 0


def claims(engine: Engine, clock: ManualClock, **options: Any) -> SqlClaims:
    made = SqlClaims(engine, "orders", "relay-1", clock, **options)
    made.take_over()
    return made


def test_the_business_row_is_queryable_and_the_outbox_holds_the_very_bytes(engine: Engine, clock: ManualClock) -> None:
    body = '{"total":"12.50", "name":"naïve \\u0000 😀"}'.encode()
    assert accepting(engine, clock, ("order-1", body)) == [None]
    with reading(engine) as connection:
        stored = connection.execute(select(business_rows)).one()
        emitted = connection.execute(select(outbox)).one()
    assert (stored.pipeline, stored.project, stored.id, stored.body.encode()) == ("orders", "shop", "order-1", body)
    assert stored.received_at.replace(tzinfo=UTC) == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert (emitted.topic, emitted.key, emitted.value, emitted.tw) == (
        ORDERS.topic.name,
        b"customer",
        body,
        tw("order-1"),
    )
    assert (emitted.batch, emitted.sent_at) == (None, None)


def test_concurrent_requests_share_a_commit(engine: Engine, clock: ManualClock) -> None:
    registry = Registry("test")
    requests = [(f"o{i}", b"{}") for i in range(200)]
    assert accepting(engine, clock, *requests, registry=registry) == [None] * 200
    sample = {s.name: s.value for s in next(iter(registry.histogram(COMMIT_ROWS).collect())).samples}
    assert sample["tidewatch_outbox_commit_rows_sum"] == 200
    assert sample["tidewatch_outbox_commit_rows_count"] <= 3


def test_a_retry_under_the_same_id_is_accepted_and_stored_once(engine: Engine, clock: ManualClock) -> None:
    assert accepting(engine, clock, ("o1", b'{"n":1}'), ("o1", b'{"n":1}')) == [None, None]
    assert accepting(engine, clock, ("o1", b'{"n":1}')) == [None]
    assert (count(engine, business_rows), count(engine, outbox)) == (1, 1)


def test_another_body_under_the_same_id_is_refused_without_harm_to_its_neighbours(
    engine: Engine, clock: ManualClock
) -> None:
    accept_many(engine, clock, 1)
    outcomes = accepting(engine, clock, ("o0", b'{"n":99}'), ("o1", b'{"n":1}'), ("o1", b'{"n":98}'))
    assert isinstance(outcomes[0], EventIdTaken)
    assert outcomes[1] is None
    assert isinstance(outcomes[2], EventIdTaken)
    assert (count(engine, business_rows), count(engine, outbox)) == (2, 2)


def test_the_same_id_in_two_projects_is_two_events(engine: Engine, clock: ManualClock) -> None:
    async def run() -> None:
        store = SqlOutbox(engine, Registry("test"), clock=clock)
        await store.accept(ORDERS, "shop", "o1", b"{}", tw("o1"), None)
        await store.accept(ORDERS, "other", "o1", b"{}", tw("o1", "other"), None)
        await store.close()

    asyncio.run(run())
    assert (count(engine, business_rows), count(engine, outbox)) == (2, 2)


def test_a_full_queue_is_refused_at_once(engine: Engine, clock: ManualClock) -> None:
    async def run() -> list[Any]:
        store = SqlOutbox(engine, Registry("test"), clock=clock, room=3)
        calls = [store.accept(ORDERS, "shop", f"o{i}", b"{}", tw(f"o{i}"), None) for i in range(5)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        await store.close()
        return list(outcomes)

    outcomes = asyncio.run(run())
    assert [isinstance(outcome, StoreUnavailable) for outcome in outcomes] == [False, False, False, True, True]
    assert count(engine, business_rows) == 3


def test_both_rows_or_none(engine: Engine, clock: ManualClock) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox"))
    (outcome,) = accepting(engine, clock, ("o1", b"{}"))
    assert isinstance(outcome, StoreError)
    assert count(engine, business_rows) == 0


def test_a_batch_is_claimed_sent_and_closed(engine: Engine, clock: ManualClock) -> None:
    accept_many(engine, clock, 5)
    relay = claims(engine, clock, max_rows=3)
    batch = relay.claim(after=0)
    assert batch is not None
    assert [row.tw for row in batch.rows] == [tw("o0"), tw("o1"), tw("o2")]
    assert relay.open() == (batch, 1)
    relay.mark_sent(batch)
    assert relay.open() == (None, 1)
    rest = relay.claim(after=1)
    assert rest is not None
    assert (rest.mark.batch, len(rest.rows)) == (2, 2)
    relay.mark_sent(rest)
    assert relay.claim(after=2) is None
    found = depth(engine, "orders")
    assert (found.committed, found.emitted, found.waiting, found.oldest_waiting) == (5, 5, 0, None)


def test_a_row_whose_id_commits_late_is_not_passed_over(engine: Engine, clock: ManualClock) -> None:
    accept_many(engine, clock, 3)
    with engine.begin() as connection:
        connection.execute(update(outbox).where(outbox.c.event_id == "o0").values(pipeline="not yet committed"))
    relay = claims(engine, clock)
    batch = relay.claim(after=0)
    assert batch is not None
    relay.mark_sent(batch)
    with engine.begin() as connection:
        connection.execute(update(outbox).where(outbox.c.event_id == "o0").values(pipeline="orders"))
    late = relay.claim(after=1)
    assert late is not None
    assert [row.tw for row in late.rows] == [tw("o0")]


def test_a_batch_is_bounded_in_bytes_and_never_empty(engine: Engine, clock: ManualClock) -> None:
    accepting(engine, clock, *[(f"o{i}", b'"%s"' % (b"x" * 600)) for i in range(4)])
    batch = claims(engine, clock, max_bytes=1300).claim(after=0)
    assert batch is not None
    assert len(batch.rows) == 2
    small = claims(engine, clock, max_bytes=1)
    open_batch, _ = small.open()
    assert open_batch is not None
    small.mark_sent(open_batch)
    one = small.claim(after=1)
    assert one is not None
    assert len(one.rows) == 1


def test_the_number_goes_on_after_what_kafka_knows(engine: Engine, clock: ManualClock) -> None:
    accept_many(engine, clock, 1)
    batch = claims(engine, clock).claim(after=41)
    assert batch is not None
    assert batch.mark.batch == 42


def test_a_relay_that_was_replaced_can_do_nothing_more(engine: Engine, clock: ManualClock) -> None:
    accept_many(engine, clock, 2)
    old = claims(engine, clock, max_rows=1)
    batch = old.claim(after=0)
    assert batch is not None
    new = SqlClaims(engine, "orders", "relay-2", clock)
    new.take_over()
    for act in (
        old.check,
        old.open,
        lambda: old.claim(1),
        lambda: old.mark_sent(batch),
        old.unsent,
        lambda: old.settle(set(), 1),
    ):
        with pytest.raises(RelayFenced, match="relay-2"):
            act()
    assert new.open() == (batch, 1)


def test_settling_marks_what_was_found_and_frees_the_rest(engine: Engine, clock: ManualClock) -> None:
    accept_many(engine, clock, 4)
    relay = claims(engine, clock, max_rows=2)
    assert relay.claim(after=0) is not None
    tws, since = relay.unsent()
    assert (set(tws), since) == ({tw(f"o{i}") for i in range(4)}, clock.now())
    relay.settle({tw("o1"), tw("o3")}, after=6)
    assert relay.open() == (None, 7)
    rest = relay.claim(after=7)
    assert rest is not None
    assert ([row.tw for row in rest.rows], rest.mark.batch) == ([tw("o0"), tw("o2")], 8)
    relay.mark_sent(rest)
    found = depth(engine, "orders")
    assert (found.committed, found.emitted, found.waiting) == (4, 4, 0)


def test_depth_and_age(engine: Engine, clock: ManualClock) -> None:
    accept_many(engine, clock, 2)
    clock.advance(30)
    accept_many(engine, clock, 1, start=2)
    assert waiting(engine, "orders") == (3, datetime(2026, 3, 1, 12, tzinfo=UTC))
    assert depth(engine, "orders").waiting == 3
    assert waiting(engine, "another") == (0, None)


def test_purging_removes_old_sent_rows_and_keeps_the_business_rows(engine: Engine, clock: ManualClock) -> None:
    accept_many(engine, clock, 2)
    relay = claims(engine, clock, max_rows=2)
    batch = relay.claim(after=0)
    assert batch is not None
    relay.mark_sent(batch)
    clock.advance(timedelta(days=8).total_seconds())
    accept_many(engine, clock, 1, start=2)
    assert purge(engine, clock.now() - timedelta(days=9)) == 0
    assert purge(engine, clock.now() - timedelta(days=7)) == 2
    assert (count(engine, business_rows), count(engine, outbox)) == (3, 1)
    found = depth(engine, "orders")
    assert (found.committed, found.emitted, found.waiting) == (3, 2, 1)
    assert accepting(engine, clock, ("o0", b'{"n":0}')) == [None]  # a very late retry is still recognised
    assert count(engine, outbox) == 1


def test_the_database_refuses_a_second_open_batch(engine: Engine, clock: ManualClock) -> None:
    accept_many(engine, clock, 2)
    relay = claims(engine, clock, max_rows=1)
    assert relay.claim(after=0) is not None
    with pytest.raises(StoreError):
        relay.claim(after=0)
    assert count(engine, outbox_batches) == 1


def test_preparing_twice_changes_nothing_and_a_newer_version_is_refused(engine: Engine, clock: ManualClock) -> None:
    accept_many(engine, clock, 1)
    prepare(engine)
    assert count(engine, outbox) == 1
    with engine.begin() as connection:
        connection.execute(update(versions).values(version=99))
    with pytest.raises(StoreError, match="version 99"):
        prepare(engine)
