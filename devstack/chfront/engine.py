"""The engine: chDB on one data directory, owned by this process, with a session of its own for every request.

A session costs 0.3 ms and takes its settings, its database and its temporary tables away with it, which is what a
server does for a request without `session_id`.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from devstack.chfront.compression import Bytes
from devstack.chfront.errors import BAD_ARGUMENTS, UNKNOWN_SETTING, from_engine, refusal

SETTING_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
NOT_STREAMED: Final = "Streaming query is not supported"

# The engine reads config.xml from its working directory; the profile undoes what sets an embedded engine apart.
_CONFIG: Final = """<clickhouse>
<max_server_memory_usage>{memory}</max_server_memory_usage>
<max_server_memory_usage_to_ram_ratio>0.9</max_server_memory_usage_to_ram_ratio>
<background_pool_size>2</background_pool_size>
<user_directories><users_xml><path>users.xml</path></users_xml></user_directories>
</clickhouse>
"""
_USERS: Final = """<clickhouse>
<profiles><default><implicit_select>0</implicit_select></default></profiles>
<users><default><password></password><networks><ip>::/0</ip></networks>
<profile>default</profile><quota>default</quota></default></users>
<quotas><default></default></quotas>
</clickhouse>
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """What X-ClickHouse-Summary says."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a result, or all of it."""

    data: Bytes
    counts: Counts


class Session:
    """One chDB connection: it runs one statement at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def state(self, names: Iterable[str]) -> Callable[[], None]:
        """Remember the database and these settings; the function that is returned brings them back."""
        database = bytes(self.run("SELECT currentDatabase()", "TabSeparatedRaw").data).decode().removesuffix("\n")
        listed = ", ".join(quoted(name) for name in names) or "''"
        sql = f"SELECT name, value, changed FROM system.settings WHERE name IN ({listed})"  # noqa: S608  # quoted
        rows = bytes(self.run(sql).data)
        before = [row.split("\t") for row in rows.decode().splitlines()]
        back = [f"{name} = {quoted_escaped(value) if int(changed) else 'DEFAULT'}" for name, value, changed in before]

        def restore() -> None:
            self.use(database)
            if back:
                self.run("SET " + ", ".join(back))

        return restore

    def apply(self, settings: Mapping[str, str]) -> None:
        for name in settings:
            if not SETTING_NAME.match(name):
                raise refusal(UNKNOWN_SETTING, "UNKNOWN_SETTING", f"Setting {name!r} is not a builtin setting")
        if settings:
            self.run("SET " + ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items()))

    def use(self, database: str) -> None:
        self.run(f"USE {identifier(database)}")

    def run(self, sql: str | bytes, output: str = "TabSeparated", params: Mapping[str, str] | None = None) -> Piece:
        """The whole result at once."""
        try:
            return _piece(self._connection.query(sql, output, params=dict(params or {})))
        except UnicodeError as error:
            raise refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"Not UTF-8: {error}") from error
        except RuntimeError as error:
            raise from_engine(str(error)) from error

    def stream(self, sql: str | bytes, output: str, params: Mapping[str, str]) -> Iterator[Piece]:
        """The result block by block; a statement whose result the engine does not stream comes as one piece."""
        try:
            handle = self._connection.send_query(sql, output, params=dict(params))
        except RuntimeError as error:
            if NOT_STREAMED in str(error):
                yield self.run(sql, output, params)
                return
            raise from_engine(str(error)) from error
        ended = False
        try:
            while not ended:
                result = self._connection.streaming_fetch_result(handle)
                ended = result is None or not result.rows_read()
                if result is not None:
                    yield _piece(result)
        except RuntimeError as error:
            ended = True
            raise from_engine(str(error)) from error
        finally:
            if not ended:
                self._connection.streaming_cancel_query(handle)

    def close(self) -> None:
        self._connection.close()


def _piece(result: Any) -> Piece:
    counts = Counts(
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        written_rows=result.rows_written(),
        written_bytes=result.bytes_written(),
        result_rows=result.rows_read(),
        result_bytes=result.bytes_read(),
    )
    return Piece(result.bytes() if result.size() else b"", counts)


class Engine:
    """Opens the data directory; at most `connections` statements run at once, the others wait their turn."""

    def __init__(self, directory: Path, *, connections: int, max_memory: int) -> None:
        self.directory = directory
        self._data = directory / "data"
        self._data.mkdir(parents=True, exist_ok=True)
        self._slots = threading.BoundedSemaphore(connections)
        self._configure(max_memory)
        chdb = importlib.import_module("chdb._chdb")  # loads the engine, which reads its configuration now
        self._connect = chdb.connect
        self._keeper = self.open()
        self.version, self.timezone, self.host = (
            bytes(self._keeper.run("SELECT version(), timezone(), hostName()").data).decode().strip().split("\t")
        )

    def _configure(self, max_memory: int) -> None:
        (self.directory / "config.xml").write_text(_CONFIG.format(memory=max_memory))
        (self.directory / "users.xml").write_text(_USERS)
        os.chdir(self.directory)

    def open(self) -> Session:
        try:
            return Session(self._connect(str(self._data)))
        except RuntimeError as error:
            raise from_engine(str(error)) from error

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._slots:
            yield

    def close(self) -> None:
        """Let the engine write what it holds and give the directory free."""
        self._keeper.close()


def quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quoted_escaped(tab_separated: str) -> str:
    """A value as TabSeparated wrote it, as a literal: both escape alike, but for the quote."""
    return "'" + tab_separated.replace("\\'", "'").replace("'", "\\'") + "'"


def identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
