"""Names and texts as ClickHouse's SQL takes them."""

from __future__ import annotations


def ident(name: str) -> str:
    """A quoted identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    """A quoted string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def array(items: list[str]) -> str:
    """An array of strings; `items` may not be empty, for then it would have no type."""
    return "[" + ", ".join(literal(item) for item in items) + "]"


def any_of(terms: list[str]) -> str:
    """True where one of `terms` is, each a UInt8 without NULL.

    `OR` would run each term on the rows that are left, and copying those costs more than a cheap term on all rows.
    A balanced tree, because the server names each step by its whole text, and a chain's texts add up.
    """
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"bitOr({any_of(terms[:half])}, {any_of(terms[half:])})"


def both(first: str, second: str) -> str:
    """True where both are; see any_of."""
    return f"bitAnd({first}, {second})"
