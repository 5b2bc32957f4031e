"""One chDB connection, and what comes out of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from devstack.chfront.compression import Bytes
from devstack.chfront.errors import BAD_ARGUMENTS, UNKNOWN_SETTING, from_engine, refusal

SETTING_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
NOT_STREAMED: Final = "Streaming query is not supported"
Turns = AbstractContextManager[object]


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

    def run(
        self,
        sql: str | bytes,
        output: str = "TabSeparated",
        params: Mapping[str, str] | None = None,
        turns: Turns | None = None,
    ) -> Piece:
        """The whole result at once. `turns` is held while the engine works."""
        try:
            with turns or nullcontext():
                return _piece(self._connection.query(sql, output, params=dict(params or {})))
        except UnicodeError as error:
            raise refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"Not UTF-8: {error}") from error
        except RuntimeError as error:
            raise from_engine(str(error)) from error

    def stream(self, sql: str | bytes, output: str, params: Mapping[str, str], turns: Turns) -> Stream:
        """The result block by block; a statement whose result the engine does not stream comes as one piece."""
        try:
            with turns:
                handle = self._connection.send_query(sql, output, params=dict(params))
        except RuntimeError as error:
            if NOT_STREAMED not in str(error):
                raise from_engine(str(error)) from error
            return Stream(self._connection, None, turns, self.run(sql, output, params, turns))
        return Stream(self._connection, handle, turns)

    def close(self) -> None:
        self._connection.close()


class Stream(Iterator[Piece]):
    """A result under way. It holds a turn only while the engine works, not while a client reads.

    Close it before its session: the engine does not survive the cancelling of a statement whose session is gone.
    """

    def __init__(self, connection: Any, handle: Any, turns: Turns, whole: Piece | None = None) -> None:
        self._connection = connection
        self._handle = handle
        self._turns = turns
        self._whole = whole

    def __next__(self) -> Piece:
        if self._whole is not None:
            piece, self._whole = self._whole, None
            return piece
        if self._handle is None:
            raise StopIteration
        try:
            with self._turns:
                result = self._connection.streaming_fetch_result(self._handle)
        except RuntimeError as error:
            self._handle = None
            raise from_engine(str(error)) from error
        if result is None or not result.rows_read():
            self._handle = None
        if result is None:
            raise StopIteration
        return _piece(result)

    def close(self) -> None:
        """Cancel what has not ended; no effect the second time."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._connection.streaming_cancel_query(handle)


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


def quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quoted_escaped(tab_separated: str) -> str:
    """A value as TabSeparated wrote it, as a literal: both escape alike, but for the quote."""
    return "'" + tab_separated.replace("\\'", "'").replace("'", "\\'") + "'"


def identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
