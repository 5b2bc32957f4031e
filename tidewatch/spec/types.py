"""Field types of a spec: what they are in JSON and in ClickHouse."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

JsonKind = Literal["string", "integer", "number", "boolean", "object", "array", "string or number"]

_INTEGERS = {f"{sign}int{bits}": (sign, bits) for sign in ("", "u") for bits in (8, 16, 32, 64)}
_PLAIN: dict[str, tuple[JsonKind, str]] = {
    "string": ("string", "String"),
    "float64": ("number", "Float64"),
    "bool": ("boolean", "Bool"),
    "timestamp": ("string", "DateTime64(6, 'UTC')"),
    "date": ("string", "Date32"),
    "uuid": ("string", "UUID"),
    # With ClickHouse's own limit of 1024 paths, each a column in memory, 40,000 GitHub and Wikipedia events took 38 s to
    # insert; with 64 they take 2 s, and rarer paths are queried all the same, from a shared column.
    "json": ("object", "JSON(max_dynamic_paths=64)"),
    **{name: ("integer", name.replace("uint", "UInt").replace("int", "Int")) for name in _INTEGERS},
}
_ARRAY = re.compile(r"array\((string|int64|float64)\)")
_DECIMAL = re.compile(r"decimal\((\d{1,2}),\s*(\d{1,2})\)")

KNOWN = (*_PLAIN, "array(string|int64|float64)", "decimal(precision,scale)")


@dataclass(frozen=True, slots=True)
class FieldType:
    """`low` and `high` bound an integer type; `precision` and `scale` belong to decimals, `item` to arrays."""

    name: str
    json: JsonKind
    clickhouse: str
    low: int | None = None
    high: int | None = None
    precision: int = 0
    scale: int = 0
    item: str = ""

    @property
    def is_integer(self) -> bool:
        return self.json == "integer"

    @property
    def is_numeric(self) -> bool:
        return self.json in ("integer", "number", "string or number")


def parse(text: str) -> FieldType:
    """Raise ValueError, naming the known types, when `text` is none of them."""
    if text in _INTEGERS:
        sign, bits = _INTEGERS[text]
        low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return FieldType(text, "integer", _PLAIN[text][1], low, high)
    if text in _PLAIN:
        kind, clickhouse = _PLAIN[text]
        return FieldType(text, kind, clickhouse)
    if match := _ARRAY.fullmatch(text):
        item = match[1]
        return FieldType(text, "array", f"Array({_PLAIN[item][1]})", item=item)
    if match := _DECIMAL.fullmatch(text):
        precision, scale = int(match[1]), int(match[2])
        if not 1 <= precision <= 38 or scale > precision:
            raise ValueError(f"{text}: precision is 1 to 38 and scale at most the precision")
        name = f"Decimal({precision}, {scale})"
        return FieldType(text, "string or number", name, precision=precision, scale=scale)
    raise ValueError(f"{text!r} is no field type; known are {', '.join(KNOWN)}")
