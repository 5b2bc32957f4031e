"""How commands print: JSON for programs, tables for people, colour only on a terminal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# A pipe has no width: nothing is cut for its sake.
_PIPE_WIDTH = 10_000
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def print_json(content: Any) -> None:
    """One document; what is infinite or no number is null, since JSON has neither."""
    print(json.dumps(_finite(content), indent=2, ensure_ascii=False, default=str))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Cells may hold markup."""
    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def duration(seconds: float | None) -> str:
    """`3.2 s`, `4 min`, `2.5 h`, `9 d`, `never`; a dash for what is not known."""
    if seconds is None:
        return "–"
    if math.isinf(seconds):
        return "never"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def plain(text: str) -> str:
    """What somebody else wrote, shown as it is."""
    return escape(text)


def _finite(content: Any) -> Any:
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
