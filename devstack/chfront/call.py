"""One request in ClickHouse's terms: the statement, its data, its settings, parameters and external tables."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from devstack.chfront import multipart, statement
from devstack.chfront.compression import Bytes, decompressed
from devstack.chfront.errors import BAD_ARGUMENTS, NOT_IMPLEMENTED, refusal
from devstack.chfront.sessions import Wish
from devstack.chfront.statement import Statement
from devstack.chfront.wire import Request

# What HTTPHandler.cpp keeps for itself; every other URL parameter is a setting.
_RESERVED: Final = frozenset(
    [
        "query",
        "database",
        "default_format",
        "compress",
        "decompress",
        "user",
        "password",
        "quota_key",
        "query_id",
        "stacktrace",
        "role",
        "buffer_size",
        "wait_end_of_query",
        "session_id",
        "session_timeout",
        "session_check",
        "client_protocol_version",
        "close_session",
    ]
)
_TABLE_SUFFIXES: Final = ("_format", "_types", "_structure")
_TRUE: Final = frozenset({"1", "true"})


@dataclass(frozen=True, slots=True)
class External:
    """An external table: `CREATE TEMPORARY TABLE name (structure)` filled from `data`."""

    name: str
    format: str
    structure: str
    data: memoryview


@dataclass(slots=True)
class Call:
    statement: Statement
    data: Iterable[Bytes]
    query_id: str
    params: dict[str, str]
    settings: dict[str, str]
    database: str = ""
    default_format: str = ""
    session: Wish = field(default_factory=Wish)
    read_only: bool = False
    wait: bool = False
    compress: bool = True
    externals: list[External] = field(default_factory=list)

    @property
    def output(self) -> str:
        of_result = None if self.statement.takes_data else self.statement.format
        return of_result or self.default_format or "TabSeparated"


def read(request: Request) -> Call:
    """Read the request up to where its data begin; `data` then yields the rest of the body."""
    values = request.params
    for flag in ("compress", "decompress"):
        if values.get(flag, "").lower() in _TRUE:
            raise refusal(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", f"The development front does not speak {flag}=1")
    pieces = decompressed(request.body.pieces(), request.header("content-encoding"))
    form = multipart.is_multipart(request.header("content-type"))
    externals: list[External] = []
    if form:
        values, externals = _form(request, _gathered(pieces))
        pieces = iter(())
    parsed, data = _statement(values.get("query", ""), pieces)
    return Call(
        parsed,
        data,
        query_id=values.get("query_id") or request.header("x-clickhouse-query-id") or str(uuid.uuid4()),
        params={name[6:]: value for name, value in values.items() if name.startswith("param_")},
        settings=_settings(values, {f"{table.name}{suffix}" for table in externals for suffix in _TABLE_SUFFIXES}),
        database=request.header("x-clickhouse-database") or values.get("database", ""),
        default_format=request.header("x-clickhouse-format") or values.get("default_format", ""),
        session=Wish.of(values),
        read_only=request.method in {"GET", "HEAD"},
        wait=values.get("wait_end_of_query", "").lower() in _TRUE,
        compress=values.get("enable_http_compression", "1").lower() in _TRUE,
        externals=externals,
    )


def _settings(values: Mapping[str, str], of_tables: set[str]) -> dict[str, str]:
    return {
        name: value
        for name, value in values.items()
        if name and name not in _RESERVED and name not in of_tables and not name.startswith("param_")
    }


def _statement(query: str, pieces: Iterator[Bytes]) -> tuple[Statement, Iterable[Bytes]]:
    """The query of the URL, a line break, and the body are one text; data begin where the statement says so."""
    head = _text(query.encode(errors="surrogateescape") + b"\n") if query else ""
    parsed = statement.parse(head) if head else None
    if parsed is not None and parsed.takes_data:
        return parsed, chain([head[parsed.data_start :].encode("latin-1")], pieces)
    rest = _gathered(pieces)
    if parsed is not None and not rest.strip():
        return parsed, ()
    whole = head.encode("latin-1") + rest
    parsed = statement.parse(_text(whole))
    return parsed, [memoryview(whole)[parsed.data_start :]] if parsed.takes_data else ()


def _gathered(pieces: Iterator[Bytes]) -> bytes:
    """All of them. Each piece must be copied before the next is asked for, so a join will not do."""
    whole = io.BytesIO()
    for piece in pieces:
        whole.write(piece)
    return whole.getvalue()


def _text(sql: bytes) -> str:
    return sql.decode("latin-1")


def _form(request: Request, body: bytes) -> tuple[dict[str, str], list[External]]:
    """Plain fields join the URL's parameters; each file is an external table named by its field."""
    values, files = dict(request.params), []
    for part in multipart.parts(request.header("content-type"), body):
        if part.filename is None:
            values.setdefault(part.name, bytes(part.data).decode(errors="surrogateescape"))
        else:
            files.append(part)
    return values, [_external(part, values) for part in files]


def _external(part: multipart.Part, values: Mapping[str, str]) -> External:
    structure = values.get(f"{part.name}_structure", "")
    types = values.get(f"{part.name}_types", "")
    if types and not structure:
        structure = ", ".join(f"_{at} {kind}" for at, kind in enumerate(_split(types), start=1))
    if not structure:
        what = f"Neither structure nor types have not been provided for external table {part.name}. Use fields "
        what += f"{part.name}_structure or {part.name}_types to do so"
        raise refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", what)
    return External(part.name, values.get(f"{part.name}_format", "TabSeparated"), structure, part.data)


def _split(types: str) -> list[str]:
    """`UInt8, Decimal(9, 2)` → its types: commas inside brackets do not separate."""
    found, depth, start = [], 0, 0
    for at, letter in enumerate(types):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            found.append(types[start:at].strip())
            start = at + 1
    return [*found, types[start:].strip()]
