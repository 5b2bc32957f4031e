"""What makes a field's value valid, exactly and one by one: the definition that the fast path has to agree with.

The reasons are those of the loader (docs/validation.md), and nothing is accepted here that it would call poison.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from ingest.gateway.parsing import kind_of
from ingest.gateway.problems import Rejection
from tidewatch.spec import Field
from tidewatch.spec.types import FieldType

MAX_JSON_BYTES = 64 * 1024
RFC3339 = re.compile(
    r"(?:19|2[0-2])\d\d-[01]\d-[0-3]\d[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
DATE = re.compile(r"(?:19|2[0-2])\d\d-\d\d-\d\d", re.ASCII)
UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
FIRST, LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
# Doubles hold every decimal of fifteen digits exactly.
_EXACT_DIGITS = 15
INT64 = (-(2**63), 2**63 - 1)
INTEGERS_BEYOND = 2**63

Verdict = tuple[str, str] | None
"""(reason, what the field takes instead), None when the value is fine."""


@dataclass(frozen=True, slots=True)
class Rule:
    field: Field
    judge: Callable[[Any, bytes], Verdict]
    """Of a value that is not null, with its raw JSON."""

    def check(self, event: dict[str, Any], raws: Callable[[str], bytes]) -> Rejection | None:
        name = self.field.name
        value = event.get(name)
        if value is None:
            return self._absent(present=name in event)
        needs_raw = self.field.type == "json" or self.field.kind.precision
        verdict = self.judge(value, raws(name) if needs_raw else b"")
        if verdict is None:
            return None
        reason, takes = verdict
        return Rejection(name, reason, f"{name} {takes}; it got {kind_of(value)}")

    def _absent(self, *, present: bool) -> Rejection | None:
        """A null stands for an absent field."""
        if not self.field.required:
            return None
        what = "is null" if present else "is missing"
        return Rejection(self.field.name, "missing_field", f"{self.field.name} {what}, and every event needs it")


def rules(fields: Iterable[Field]) -> list[Rule]:
    return [Rule(field, _judge(field)) for field in fields]


def _judge(field: Field) -> Callable[[Any, bytes], Verdict]:
    of_type, constraints = _type_judge(field.kind), _constraints(field)

    def judge(value: Any, raw: bytes) -> Verdict:
        verdict = of_type(value, raw)
        if verdict is None:
            for constraint in constraints:
                if verdict := constraint(value):
                    break
        return verdict

    return judge


def _type_judge(kind: FieldType) -> Callable[[Any, bytes], Verdict]:
    if kind.is_integer:
        return _integer(kind)
    if kind.precision:
        return _decimal(kind)
    if kind.item:
        return _array(kind.item)
    return {
        "string": _string,
        "float64": _float,
        "bool": _bool,
        "timestamp": _timestamp,
        "date": _date,
        "uuid": _uuid,
        "json": _json,
    }[kind.name]


def _string(value: Any, _: bytes) -> Verdict:
    return None if isinstance(value, str) else ("wrong_type", "takes a string")


def _bool(value: Any, _: bytes) -> Verdict:
    return None if isinstance(value, bool) else ("wrong_type", "takes true or false")


def _integer(kind: FieldType) -> Callable[[Any, bytes], Verdict]:
    low, high = kind.low or 0, kind.high or 0
    takes = f"takes an integer from {low} to {high}"

    def judge(value: Any, _: bytes) -> Verdict:
        if type(value) is not int:
            return "wrong_type", takes
        return None if low <= value <= high else ("out_of_range", takes)

    return judge


def _float(value: Any, _: bytes) -> Verdict:
    if type(value) is int:
        # Readers differ on what an integer beyond 64 bits is.
        fits = abs(value) < INTEGERS_BEYOND
        return None if fits else ("out_of_range", "takes a number; write one beyond 64 bits with an exponent")
    if not isinstance(value, float):
        return "wrong_type", "takes a number"
    return None if math.isfinite(value) else ("out_of_range", "takes a finite number")


def _timestamp(value: Any, _: bytes) -> Verdict:
    takes = "takes an RFC 3339 time with an offset, from 1900 to 2299, such as 2026-01-31T12:00:00Z"
    if not isinstance(value, str):
        return "wrong_type", takes
    if not RFC3339.fullmatch(value):
        return "bad_format", takes
    try:
        time = datetime.fromisoformat(value.upper())
        fits = FIRST <= time <= LAST
    except ValueError:
        fits = False
    return None if fits else ("bad_format", takes)


def _date(value: Any, _: bytes) -> Verdict:
    takes = "takes a date as YYYY-MM-DD, from 1900 to 2299"
    if not isinstance(value, str):
        return "wrong_type", takes
    try:
        return None if DATE.fullmatch(value) and date.fromisoformat(value) else ("bad_format", takes)
    except ValueError:
        return "bad_format", takes


def _uuid(value: Any, _: bytes) -> Verdict:
    takes = "takes a UUID as 8-4-4-4-12 hex digits"
    if not isinstance(value, str):
        return "wrong_type", takes
    return None if UUID.fullmatch(value) else ("bad_format", takes)


def _json(value: Any, raw: bytes) -> Verdict:
    if not isinstance(value, dict):
        return "wrong_type", "takes an object"
    if len(raw) > MAX_JSON_BYTES:
        return "too_large", f"takes at most {MAX_JSON_BYTES // 1024} KiB of JSON"
    if has_shared_path(value):
        return "bad_format", "takes an object in which no path stands twice, and 'a.b' is the path of b in a"
    return None


def has_shared_path(value: dict[str, Any]) -> bool:
    """Whether ClickHouse, which reads dots in keys as nesting, would find two values under one path."""
    # A tree of the parts between the dots: whole paths as text would take the product of a long key and many short ones.
    root: dict[str | None, Any] = {}
    stack = [(root, value)]
    while stack:
        node, item = stack.pop()
        for key, inner in item.items():
            end = node
            for part in key.split("."):
                end = end.setdefault(part, {})
            if None in end:
                return True
            end[None] = True
            if isinstance(inner, dict):
                stack.append((end, inner))
    return False


def _decimal(kind: FieldType) -> Callable[[Any, bytes], Verdict]:
    form = f"takes a decimal number such as {'1.5' if kind.scale else '15'}"
    digits = (
        f"takes {kind.precision - kind.scale} digits before the point and {kind.scale} after it; nothing is rounded"
    )
    inexact = f"with a fraction takes {_EXACT_DIGITS} digits as a JSON number; send it as a string"
    limit = Decimal(10) ** (kind.precision - kind.scale)

    def judge(value: Any, raw: bytes) -> Verdict:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            return "wrong_type", form
        text = value if isinstance(value, str) else raw.decode("ascii").strip()
        if not _NUMBER.fullmatch(text) or len(text) > 100:
            return "bad_format", form
        number = Decimal(text)
        exponent = number.normalize().as_tuple().exponent
        if abs(number) >= limit or (isinstance(exponent, int) and -exponent > kind.scale):
            return "out_of_range", digits
        if "e" in text.lower() or isinstance(value, float):
            return None if abs(number) < Decimal(10) ** (_EXACT_DIGITS - kind.scale) else ("out_of_range", inexact)
        return None

    return judge


def _array(item: str) -> Callable[[Any, bytes], Verdict]:
    takes = {"string": "strings", "int64": "64-bit integers", "float64": "numbers"}[item]
    judge_item = {"string": _string, "int64": _integer(_INT64), "float64": _float}[item]

    def judge(value: Any, raw: bytes) -> Verdict:
        if not isinstance(value, list):
            return "wrong_type", f"takes an array of {takes}"
        for element in value:
            if verdict := judge_item(element, raw):
                return verdict[0], f"takes an array of {takes} without nulls"
        return None

    return judge


_INT64 = FieldType("int64", "integer", "Int64", *INT64)


def _constraints(field: Field) -> list[Callable[[Any], Verdict]]:
    found: list[Callable[[Any], Verdict]] = []
    number: Callable[[Any], Any] = (
        (lambda value: Decimal(str(value))) if field.kind.precision else (lambda value: value)
    )
    if field.min is not None:
        low = number(field.min)
        found.append(lambda value: ("out_of_range", f"is at least {low}") if number(value) < low else None)
    if field.max is not None:
        high = number(field.max)
        found.append(lambda value: ("out_of_range", f"is at most {high}") if number(value) > high else None)
    if field.max_length is not None:
        most, of = field.max_length, "items" if field.kind.item else "characters"
        found.append(lambda value: ("too_long", f"has at most {most} {of}") if len(value) > most else None)
    if field.values is not None:
        allowed = frozenset(field.values)
        said = ("not_allowed", f"is one of {', '.join(field.values)}")
        found.append(lambda value: None if value in allowed else said)
    if field.pattern is not None:
        pattern = re.compile(field.pattern, re.ASCII)
        wanted = ("pattern", f"matches {field.pattern}")
        found.append(lambda value: None if pattern.fullmatch(value) else wanted)
    return found
