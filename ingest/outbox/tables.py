"""Tables of the outbox in the SQL store.

business_rows    one row per accepted event, kept for ever: `SELECT body FROM business_rows WHERE pipeline = 'orders'`
outbox           the same event as it goes to Kafka; sent rows are purged after a while
outbox_batches   which rows went in which Kafka transaction: the number that Kafka and the store compare
outbox_relays    which relay may claim; each start raises `epoch`, and so fences the one before
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import IntegrityError, ProgrammingError

from tidewatch.errors import StoreError
from tidewatch.sql import translated

VERSION = 1

metadata = MetaData()
_id = BigInteger().with_variant(Integer, "sqlite")

business_rows = Table(
    "business_rows",
    metadata,
    Column("pipeline", String(63), primary_key=True),
    Column("project", String(63), primary_key=True),
    Column("id", String(128), primary_key=True),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("body", Text, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _id, primary_key=True, autoincrement=True),
    Column("pipeline", String(63), nullable=False),
    Column("project", String(63), nullable=False),
    Column("event_id", String(128), nullable=False),
    Column("topic", String(249), nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary, nullable=False),
    Column("tw", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("batch", BigInteger),
    Column("sent_at", DateTime(timezone=True)),
    UniqueConstraint("pipeline", "project", "event_id"),
)
_unclaimed = outbox.c.batch.is_(None)
Index("outbox_unclaimed", outbox.c.pipeline, outbox.c.id, postgresql_where=_unclaimed, sqlite_where=_unclaimed)
Index("outbox_batch", outbox.c.pipeline, outbox.c.batch)
_unsent = outbox.c.sent_at.is_(None)
Index("outbox_unsent", outbox.c.pipeline, outbox.c.created_at, postgresql_where=_unsent, sqlite_where=_unsent)
Index("outbox_sent", outbox.c.sent_at)

outbox_batches = Table(
    "outbox_batches",
    metadata,
    Column("pipeline", String(63), primary_key=True),
    Column("batch", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("rows", Integer, nullable=False),
    Column("claimed_at", DateTime(timezone=True), nullable=False),
    Column("sent_at", DateTime(timezone=True)),
)
_open = outbox_batches.c.sent_at.is_(None)
# At most one batch of a pipeline is open; the database itself refuses a second.
Index("outbox_open_batch", outbox_batches.c.pipeline, unique=True, postgresql_where=_open, sqlite_where=_open)

outbox_relays = Table(
    "outbox_relays",
    metadata,
    Column("pipeline", String(63), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", String(128), nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
)

versions = Table(
    "outbox_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)


def prepare(engine: Engine) -> None:
    """Create what is missing. Raises StoreError when a newer release has changed the tables."""
    with translated("preparing the outbox tables"):
        if not inspect(engine).has_table(versions.name):
            _create(engine)
        with engine.begin() as connection:
            found = connection.execute(select(versions.c.version)).scalar()
    if found != VERSION:
        raise StoreError(
            f"the outbox tables have version {found}, and this release knows version {VERSION}",
            fix="run the release that made them, or migrate the store",
        )


def _create(engine: Engine) -> None:
    """Two processes that start together may both come here; one of them finds the work done."""
    try:
        with engine.begin() as connection:
            metadata.create_all(connection)
            connection.execute(insert(versions).values(version=VERSION))
    except (IntegrityError, ProgrammingError):
        if not inspect(engine).has_table(versions.name):
            raise
