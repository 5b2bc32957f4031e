"""The caller's query_id.

An embedded engine gives every statement an id of its own and offers no way to choose it. So the front runs each
statement behind a comment with the caller's id, and puts that id in the place of the engine's where a statement reads
`system.processes` or kills by id.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from devstack.chfront.errors import QUERY_WITH_SAME_ID, FrontError, refusal
from devstack.chfront.statement import Token, tokens

_MARK: Final = r"^/\\* query_id: (.*?) \\*/ "
_ID: Final = f"coalesce(nullIf(extract(query, '{_MARK}'), ''), {{column}})"
_COLUMNS: Final = ", ".join(
    [f"{_ID.format(column=name)} AS {name}" for name in ("query_id", "initial_query_id")],
)
_PLAIN: Final = f"replaceRegexpOne(query, '{_MARK}', '') AS query"
_RENAMED: Final = f"SELECT * REPLACE ({_COLUMNS}) FROM system.processes"  # noqa: S608  # constants only
_VIEW: Final = f"(SELECT * REPLACE ({_PLAIN}) FROM ({_RENAMED}))"  # noqa: S608
_POSITION: Final = re.compile(r"(failed at position )(\d+)|(\(line 1, col )(\d+)")


def marked(sql: str, query_id: str) -> str:
    return _prefix(query_id) + sql


def unshifted(error: FrontError, query_id: str) -> FrontError:
    """The error as if the statement had stood alone: positions are counted from its own start."""
    shift = len(_prefix(query_id).encode())

    def moved(found: re.Match[str]) -> str:
        label, number = (found[1], found[2]) if found[1] else (found[3], found[4])
        return f"{label}{int(number) - shift}"

    text = _POSITION.sub(moved, error.text).replace(_prefix(query_id), "")
    return FrontError(error.code, text)


def _prefix(query_id: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in query_id)
    return f"/* query_id: {printable.replace('*/', '* /').encode().decode('latin-1')} */ "


def by_caller(verb: str, sql: str) -> str:
    """The statement with the caller's ids where it reads the running statements."""
    if verb == "KILL":
        return _kill(sql)
    if verb in {"SELECT", "WITH", "EXPLAIN"} and "processes" in sql.lower():
        return _select(sql)
    return sql


def _select(sql: str) -> str:
    seen = list(tokens(sql))
    out, at = [], 0
    for before, first, dot, second in zip(seen, seen[1:], seen[2:], seen[3:], strict=False):
        named = first.text.lower() == "system" and dot.text == "." and second.text.lower() == "processes"
        if named and before.upper in {"FROM", "JOIN"}:
            out += [sql[at : first.start], _VIEW]
            at = second.end
    return "".join(out) + sql[at:]


def _kill(sql: str) -> str:
    out, at = [], 0
    for token in tokens(sql):
        if _is_id(token):
            name = token.text.strip('`"').lower()
            out += [sql[at : token.start], _ID.format(column=name)]
            at = token.end
    return "".join(out) + sql[at:]


def _is_id(token: Token) -> bool:
    return token.kind in {"word", "quoted"} and token.text.strip('`"').lower() in {"query_id", "initial_query_id"}


class Running:
    """The ids under way: a second statement under the same id is refused, as a server refuses it."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def claim(self, query_id: str) -> Iterator[None]:
        with self._lock:
            if query_id in self._ids:
                what = f"Query with id = {query_id} is already running"
                raise refusal(QUERY_WITH_SAME_ID, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", what)
            self._ids.add(query_id)
        try:
            yield
        finally:
            with self._lock:
                self._ids.discard(query_id)
