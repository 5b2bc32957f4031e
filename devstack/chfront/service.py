"""A request to the engine and its answer, as ClickHouse's HTTP interface gives it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from devstack.chfront import call as calls
from devstack.chfront import compression
from devstack.chfront.arrow import one_stream
from devstack.chfront.auth import Password
from devstack.chfront.call import Call, External
from devstack.chfront.compression import Bytes
from devstack.chfront.engine import Engine
from devstack.chfront.errors import FrontError
from devstack.chfront.processes import Running, by_caller, marked, unshifted
from devstack.chfront.session import Counts, Piece, Session, identifier
from devstack.chfront.sessions import Sessions
from devstack.chfront.spool import Spool
from devstack.chfront.wire import Request, Response

OK: Final = "Ok.\n"
# An answer is held back until this much of it is there, so that an early error still gets its own HTTP status.
HELD_BACK: Final = 1 << 20
# Formats whose blocks, written one after the other, are the whole: no header, no footer.
_APPENDABLE: Final = frozenset(
    [
        "native",
        "tabseparated",
        "tsv",
        "tabseparatedraw",
        "tsvraw",
        "csv",
        "rowbinary",
        "jsoneachrow",
        "jsonlines",
        "ndjson",
        "jsoncompacteachrow",
        "arrowstream",
    ]
)


@dataclass(slots=True)
class Result:
    """What a statement gives, and what it counted by the time the last piece was taken."""

    pieces: Iterator[Bytes]
    counts: Counts = field(default_factory=Counts)


class Service:
    """Answers requests. It may be called from many threads at once."""

    def __init__(self, engine: Engine, password: Password) -> None:
        self._engine = engine
        self._password = password
        self._sessions = Sessions(engine.open)
        self._spool = Spool()
        self._running = Running()

    def close(self) -> None:
        self._sessions.close()

    def answer(self, request: Request) -> Response:
        """The answer to any request; the engine's and the caller's errors are answers too."""
        try:
            return self._route(request)
        except FrontError as error:
            return self._failed(error)

    def _route(self, request: Request) -> Response:
        if request.path in {"/ping", "/replicas_status"}:
            return Response.text(200, OK)
        if request.path != "/":
            known = "There is no handle " + request.path + "\n\nUse / or /ping for health checks.\n"
            return Response.text(404, known)
        if request.method not in {"GET", "HEAD", "POST"}:
            return Response.text(405, "Only GET, HEAD and POST are served\n", {"Allow": "GET, HEAD, POST"})
        if request.method in {"GET", "HEAD"} and not request.params.get("query"):
            return Response.text(200, OK)
        self._password.check(request)
        return self._query(calls.read(request), request)

    def _query(self, call: Call, request: Request) -> Response:
        started = time.monotonic_ns()
        coding = compression.chosen(request.header("accept-encoding")) if call.compress else None
        with ExitStack() as held:
            held.enter_context(self._running.claim(call.query_id))
            # The body first: while a slow client sends, nothing of the engine is held.
            path = held.enter_context(self._spool.write(call.data)) if call.statement.takes_data else ""
            wanted = self._sessions.session(call.session, settings=call.settings, lasting=call.statement.lasting)
            session = held.enter_context(wanted)
            result = self._run(session, call, path, held)
            first, ended = _take(result.pieces, None if call.wait else HELD_BACK)
            headers = self._headers(call, result.counts, started)
            if ended:
                return _whole(first, headers, coding)
            return self._rest(first, result, headers, coding, held.pop_all().close)

    def _run(self, session: Session, call: Call, path: str, held: ExitStack) -> Result:
        if call.database:
            session.use(call.database)
        session.apply(call.settings)
        for table in call.externals:
            self._create(session, table)
        if call.read_only and not call.session.id and "readonly" not in call.settings:
            session.apply({"readonly": "2"})
        sql = by_caller(call.statement.verb, call.statement.sql)
        if call.statement.takes_data:
            sql = call.statement.reading(path)
        text = marked(sql, call.query_id).encode("latin-1")
        if call.wait or call.output.lower() not in _APPENDABLE or call.statement.verb not in {"SELECT", "WITH"}:
            return self._at_once(session, text, call)
        with _unshifted(call):
            stream = session.stream(text, call.output, call.params, self._engine.turns)
        held.callback(stream.close)
        result = Result(iter(()))
        result.pieces = _counted(stream, result, call)
        if call.output.lower() == "arrowstream":
            result.pieces = one_stream(result.pieces)
        return result

    def _at_once(self, session: Session, sql: bytes, call: Call) -> Result:
        turns = None if call.statement.verb == "KILL" else self._engine.turns  # it gets through when all are taken
        with _unshifted(call):
            piece = session.run(sql, call.output, call.params, turns)
        return Result(iter([piece.data]), piece.counts)

    def _create(self, session: Session, table: External) -> None:
        """What the server does with an external table: a temporary one of engine Memory, filled beforehand."""
        name = identifier(table.name)
        session.run(f"CREATE TEMPORARY TABLE {name} ({table.structure}) ENGINE = Memory")
        with self._spool.write([table.data]) as path:
            session.run(
                f"INSERT INTO {name} FROM INFILE '{path}' FORMAT {identifier(table.format)}", turns=self._engine.turns
            )

    def _rest(
        self,
        first: list[Bytes],
        result: Result,
        headers: dict[str, str],
        coding: str | None,
        release: Callable[[], None],
    ) -> Response:
        """A long answer: sent while the engine works, an error in the middle marked as the server marks it."""
        tag = secrets.token_hex(8)
        headers |= {"X-ClickHouse-Exception-Tag": tag}
        body = _encoded(self._pieces(first, result, tag), coding)
        return Response(200, _coded(headers, coding), body, None, release)

    def _pieces(self, first: list[Bytes], result: Result, tag: str) -> Iterator[Bytes]:
        yield from first
        try:
            yield from result.pieces
        except FrontError as error:
            text = self._worded(error)
            yield f"\r\n__exception__\r\n{tag}\r\n{text}\n{len(text) + 1} {tag}\r\n__exception__\r\n".encode()
            raise

    def _headers(self, call: Call, counts: Counts, started: int) -> dict[str, str]:
        numbers = {name: getattr(counts, name) for name in Counts.__slots__}
        numbers |= {"total_rows_to_read": counts.read_rows, "elapsed_ns": time.monotonic_ns() - started}
        kind = _CONTENT_TYPES.get(call.output.lower(), "application/octet-stream")
        return {
            "Content-Type": kind,
            "X-ClickHouse-Server-Display-Name": self._engine.host,
            "X-ClickHouse-Query-Id": call.query_id,
            "X-ClickHouse-Format": call.output,
            "X-ClickHouse-Timezone": self._engine.timezone,
            "X-ClickHouse-Summary": json.dumps({name: str(number) for name, number in numbers.items()}),
        }

    def _failed(self, error: FrontError) -> Response:
        headers = {"X-ClickHouse-Exception-Code": str(error.code)}
        headers |= {"X-ClickHouse-Server-Display-Name": self._engine.host}
        if error.status == 401:
            headers |= {"WWW-Authenticate": 'Basic realm="ClickHouse server HTTP API"'}
        return Response.text(error.status, self._worded(error) + "\n", headers)

    def _worded(self, error: FrontError) -> str:
        return f"{error.text} (version {self._engine.version} (official build))"


_CONTENT_TYPES: Final = {
    "tabseparated": "text/tab-separated-values; charset=UTF-8",
    "tsv": "text/tab-separated-values; charset=UTF-8",
    "tabseparatedwithnames": "text/tab-separated-values; charset=UTF-8",
    "csv": "text/csv; charset=UTF-8; header=absent",
    "csvwithnames": "text/csv; charset=UTF-8; header=present",
    "json": "application/json; charset=UTF-8",
    "jsoncompact": "application/json; charset=UTF-8",
    "jsoneachrow": "application/x-ndjson; charset=UTF-8",
}


def _counted(pieces: Iterator[Piece], result: Result, call: Call) -> Iterator[Bytes]:
    with _unshifted(call):
        for piece in pieces:
            result.counts = result.counts.plus(piece.counts)
            yield piece.data


@contextmanager
def _unshifted(call: Call) -> Iterator[None]:
    """Errors speak of the caller's statement, not of the one with the mark before it."""
    try:
        yield
    except FrontError as error:
        raise unshifted(error, call.query_id) from error


def _take(pieces: Iterator[Bytes], limit: int | None) -> tuple[list[Bytes], bool]:
    """The first pieces up to `limit` bytes (None: all), and whether that was everything."""
    taken: list[Bytes] = []
    size = 0
    for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if limit is not None and size >= limit:
            return taken, False
    return taken, True


def _whole(pieces: list[Bytes], headers: dict[str, str], coding: str | None) -> Response:
    body = list(_encoded(iter(pieces), coding))
    size = sum(len(piece) for piece in body)
    return Response(200, _coded(headers, coding), body, size)


def _coded(headers: dict[str, str], coding: str | None) -> dict[str, str]:
    return headers | ({"Content-Encoding": coding} if coding else {})


def _encoded(pieces: Iterator[Bytes], coding: str | None) -> Iterator[Bytes]:
    if coding is None:
        yield from pieces
        return
    encoder = compression.compressor(coding)
    try:
        for piece in pieces:
            yield encoder.compress(piece)
    except FrontError:
        yield encoder.flush()  # the client must be able to decode the error that was just written
        raise
    yield encoder.flush()
