"""Where a statement ends and its data begin, and what to say to the engine instead of "the data are in the body".

SQL is handled as latin-1 text: one character is one byte, so offsets hold and no byte is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from devstack.chfront.errors import SYNTAX_ERROR, refusal

Kind = Literal["empty", "query", "insert", "input"]

_TOKEN: Final = re.compile(
    r"""
    (?P<skip> \s+ | --[^\n]* | \#[!\ ][^\n]* | /\*.*?(?:\*/|\Z) )
  | (?P<heredoc> \$(?P<tag>\w*)\$ .*? \$(?P=tag)\$ )
  | (?P<string> '(?:[^'\\]|\\.|'')*(?:'|\Z) )
  | (?P<quoted> `(?:[^`\\]|\\.|``)*(?:`|\Z) | "(?:[^"\\]|\\.|"")*(?:"|\Z) )
  | (?P<word> [A-Za-z_][\w$]* )
  | (?P<number> \d[\w.]* )
  | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_AFTER_FORMAT: Final = re.compile(r"[ \t\f]*(?:;[ \t\f]*)?(?:\r?\n)?")
_DATA_OR_CLAUSE: Final = frozenset({"FROM", "SETTINGS", "FORMAT", "VALUES", "SELECT", "WITH", "WATCH"})


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int
    end: int
    depth: int

    @property
    def upper(self) -> str:
        return self.text.upper() if self.kind == "word" else ""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. `insert` and `input` take data, which begin at `data_start` of the text and go on in the body."""

    kind: Kind
    verb: str
    sql: str
    format: str | None = None
    data_start: int = 0
    insert_at: int = 0
    inputs: tuple[tuple[int, int], ...] = ()
    lasting: bool = False
    """Whether it changes the session: settings, database or temporary tables."""

    @property
    def takes_data(self) -> bool:
        return self.kind in {"insert", "input"}

    def reading(self, path: str) -> str:
        """The statement for the engine, with its data in the file `path`."""
        if self.kind == "insert":
            body = f"{self.sql[: self.insert_at]} FROM INFILE '{path}' {self.sql[self.insert_at :]}"
            return f"{body} FORMAT Values" if self.format == "Values" else body
        out, at = [], 0
        for start, end in self.inputs:
            arguments = self.sql[start:end].strip()
            out += [self.sql[at:start], f"'{path}', '{self.format}'", f", {arguments}" if arguments else ""]
            at = end
        return re.sub(r"\binput(\s*\()(?='/)", r"file\1", "".join(out) + self.sql[at:])


def tokens(sql: str) -> Iterator[Token]:
    """What stands in the text, without blanks and comments; `depth` counts open brackets."""
    depth = 0
    for found in _TOKEN.finditer(sql):
        kind, text = found.lastgroup or "other", found.group()
        kind = "heredoc" if kind == "tag" else kind
        if kind == "skip":
            continue
        if text in {")", "]", "}"} and kind == "other":
            depth -= 1
        yield Token(kind, text, found.start(), found.end(), depth)
        if text in {"(", "[", "{"} and kind == "other":
            depth += 1


def parse(sql: str) -> Statement:
    """Read one statement; several of them in one text are refused, as a server does."""
    stream = tokens(sql)
    first = next(stream, None)
    if first is None:
        return Statement("empty", "", "")
    if first.upper == "INSERT":
        return _insert(sql, stream)
    seen = [first, *stream]
    end = _end(seen, sql)
    lasting = first.upper in {"SET", "USE"} or "TEMPORARY" in {token.upper for token in seen[1:4]}
    return Statement(
        "query", first.upper, sql[:end], _output_format([t for t in seen if t.end <= end]), lasting=lasting
    )


def _end(seen: list[Token], sql: str) -> int:
    for at, token in enumerate(seen):
        if token.text == ";" and token.kind == "other":
            if any(t.text != ";" for t in seen[at:]):
                raise refusal(SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
            return token.start
    return len(sql)


def _output_format(seen: list[Token]) -> str | None:
    """The explicit FORMAT: the last one outside brackets, with nothing but SETTINGS behind it."""
    for at in range(len(seen) - 2, 0, -1):
        token = seen[at]
        if token.depth or token.upper != "FORMAT" or seen[at + 1].kind != "word":
            continue
        behind = seen[at + 2 : at + 3]
        if not behind or behind[0].upper == "SETTINGS":
            return seen[at + 1].text
    return None


def _insert(sql: str, stream: Iterator[Token]) -> Statement:
    clause_at: int | None = None
    for token in _after_target(stream):
        if token.depth or token.upper not in _DATA_OR_CLAUSE:
            continue
        match token.upper:
            case "SETTINGS":
                clause_at = token.start if clause_at is None else clause_at
            case "VALUES":
                return _with_data(sql, token.start, token.end, "Values", clause_at)
            case "FORMAT":
                name = next(stream)
                data = _data_start(sql, name.end)
                return _with_data(sql, name.end, data, name.text, token.start if clause_at is None else clause_at)
            case "FROM":
                raise refusal(78, "UNKNOWN_TYPE_OF_QUERY", "Query has infile and was send directly to server")
            case _:
                return _insert_select(sql, stream)
    return Statement("query", "INSERT", sql)


def _with_data(sql: str, end: int, data: int, name: str, insert_at: int | None) -> Statement:
    return Statement("insert", "INSERT", sql[:end], name, data, end if insert_at is None else insert_at)


def _data_start(sql: str, at: int) -> int:
    found = _AFTER_FORMAT.match(sql, at)
    return found.end() if found else at


def _after_target(stream: Iterator[Token]) -> Iterator[Token]:
    """The tokens behind `INSERT INTO [TABLE] [FUNCTION] name[.name]`, whose names may be keywords."""
    token = next(stream, None)
    while token is not None and token.upper in {"INTO", "TABLE", "FUNCTION"}:
        token = next(stream, None)
    before = token
    for token in stream:
        if token.text == "." or (before is not None and before.text == "."):
            before = token
            continue
        yield token
        break
    yield from stream


def _insert_select(sql: str, stream: Iterator[Token]) -> Statement:
    """INSERT … SELECT; with `input('structure')` in it, the data follow behind the last FORMAT."""
    inputs: list[tuple[int, int]] = []
    seen: list[Token] = []
    opened: tuple[int, int] | None = None
    for token in stream:
        if opened and token.text == ")" and token.depth == opened[1]:
            inputs.append((opened[0], token.start))
            opened = None
        if token.text == "(" and seen and seen[-1].text == "input" and not _is_method(seen):
            opened = (token.end, token.depth)
        if inputs and seen and seen[-1].upper == "FORMAT" and not seen[-1].depth and token.kind == "word":
            at = seen[-1].start
            data = _data_start(sql, token.end)
            return Statement("input", "INSERT", sql[:at], token.text, data, 0, tuple(inputs))
        seen.append(token)
    end = _end(seen, sql)
    return replace(Statement("query", "INSERT", sql), sql=sql[:end])


def _is_method(seen: list[Token]) -> bool:
    return len(seen) > 1 and seen[-2].text == "."
