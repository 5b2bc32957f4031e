"""The SQL store: SQLite in WAL mode by default, PostgreSQL in production."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from tidewatch.errors import SettingsError, StoreError, StoreUnavailable
from tidewatch.settings import Store

_BUSY_MS = 5000


def open_store(settings: Store, *, existing: bool = False) -> Engine:
    """An engine whose every commit is on disk when it returns. Raises SettingsError for a URL of another kind.

    With `existing`, for those who only read: no SQLite file is made; StoreUnavailable when there is none.
    The engine's errors name no parameters: a traceback in the log would quote the event.
    """
    try:
        url = make_url(settings.url.get_secret_value())
    except ArgumentError as error:
        raise SettingsError(
            "TIDEWATCH_STORE__URL is no database URL", fix="write sqlite:///path or postgresql+psycopg://…"
        ) from error
    if url.drivername == "sqlite":
        if existing and not Path(url.database or "").is_file():
            raise StoreUnavailable(
                f"there is no SQLite file {url.database}",
                fix="let TIDEWATCH_STORE__URL name the gateway's store; the gateway makes it when it starts",
            )
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    if url.drivername == "postgresql+psycopg":
        return create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    raise SettingsError(f"the store cannot be {url.drivername}", fix="write sqlite:///path or postgresql+psycopg://…")


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    # The driver would begin transactions by itself, too late for BEGIN IMMEDIATE.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: Any) -> None:
    # A transaction that reads first and writes later would fail at once when another has written in between.
    # One that only reads says so, and then waits for no writer.
    only_reads = connection.get_execution_options().get("only_reads", False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: on SQLite it takes no write lock."""
    with engine.connect().execution_options(only_reads=True) as connection, connection.begin():
        yield connection


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Our errors for SQLAlchemy's; `doing` completes "the store failed while …"."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        fix = "check that the database runs and TIDEWATCH_STORE__URL names it"
        raise StoreUnavailable(f"the store did not answer while {doing}: {_reason(error)}", fix=fix) from error
    except SQLAlchemyError as error:
        raise StoreError(
            f"the store failed while {doing}: {_reason(error)}", fix="see the database's log for the same time"
        ) from error


def _reason(error: SQLAlchemyError) -> str:
    # The driver's own words: SQLAlchemy's hold the statement and its parameters, which may be personal.
    original = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(original).split())
