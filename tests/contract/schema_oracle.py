"""What a valid event is, written down a second time, in Python and without looking at the SQL."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from tidewatch.spec import Field, Spec

EXACT_INTEGER = 2**53
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
FIRST, LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


class Real(NamedTuple):
    """A JSON number with a fraction or an exponent."""

    text: str

    @property
    def value(self) -> float:
        return float(self.text)


class Pairs(list[tuple[str, Any]]):
    """A JSON object, with keys that stand twice."""


class NoValueError(Exception):
    pass


def parse(raw: bytes) -> Any:
    """Raises ValueError for what is no JSON, or what no reader of 64-bit floats can hold."""

    def real(text: str) -> Real:
        if math.isinf(float(text)):
            raise ValueError("beyond a double")
        return Real(text)

    def constant(text: str) -> Any:
        raise ValueError(text)

    value = json.loads(raw.decode(), object_pairs_hook=Pairs, parse_float=real, parse_constant=constant)
    _refuse_surrogates(value)
    return value


def _refuse_surrogates(value: Any) -> None:
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, list) and not isinstance(value, Pairs):
        for item in value:
            _refuse_surrogates(item)
    elif isinstance(value, Pairs):
        for key, item in value:
            key.encode()
            _refuse_surrogates(item)


def verdict(spec: Spec, raw: bytes) -> str:
    """The error code, or an empty string for an event."""
    try:
        event = parse(raw)
    except (ValueError, RecursionError):
        return "invalid_json"
    if not isinstance(event, Pairs):
        return "not_an_object"
    keys = [key for key, _ in event]
    if len(set(keys)) < len(keys):
        return "duplicate_key"
    if any(key.startswith("_") for key in keys):
        return "reserved_field"
    values = dict(event)
    for field in spec.schema_.fields:
        value = values.get(field.name)
        if value is None:
            if field.required:
                return "missing_field"
            continue
        if code := judge(field, value):
            return code
    known = {field.name for field in spec.schema_.fields}
    if spec.source.unknown_fields == "refuse" and set(keys) - known:
        return "unknown_field"
    return ""


def judge(field: Field, value: Any) -> str:
    kind = field.kind
    if kind.is_integer:
        code = _integer(value, kind.low or 0, kind.high or 0)
    elif kind.precision:
        code = _decimal(value, kind.precision, kind.scale)
    elif kind.item:
        code = _array(value, kind.item)
    else:
        code = _PLAIN[kind.name](value)
    return code or _constraint(field, value)


def _integer(value: Any, low: int, high: int) -> str:
    if isinstance(value, Real):
        if value.value != int(value.value):
            return "wrong_type"
        # 64-bit columns refuse what a double may have rounded; smaller ones are out of range there anyway.
        number = int(value.value)
        return "" if low <= number <= high and abs(number) < EXACT_INTEGER else "out_of_range"
    if type(value) is not int:
        return "wrong_type"
    return "" if low <= value <= high else "out_of_range"


def _float(value: Any) -> str:
    if isinstance(value, Real):
        return ""
    if type(value) is not int:
        return "wrong_type"
    try:
        float(value)
    except OverflowError:
        return "out_of_range"
    return ""


def _string(value: Any) -> str:
    return "" if isinstance(value, str) else "wrong_type"


def _bool(value: Any) -> str:
    return "" if isinstance(value, bool) else "wrong_type"


def _timestamp(value: Any) -> str:
    if not isinstance(value, str):
        return "wrong_type"
    try:
        if not _TIME.fullmatch(value):
            return "bad_format"
        fits = FIRST <= datetime.fromisoformat(value.upper()) <= LAST
    except (ValueError, OverflowError):
        return "bad_format"
    return "" if fits else "bad_format"


def _date(value: Any) -> str:
    if not isinstance(value, str):
        return "wrong_type"
    try:
        day = date.fromisoformat(value)
        return "" if len(value) == 10 and value[4] == "-" and 1900 <= day.year <= 2299 else "bad_format"
    except ValueError:
        return "bad_format"


def _uuid(value: Any) -> str:
    if not isinstance(value, str):
        return "wrong_type"
    try:
        return "" if str(UUID(value)) == value.lower() else "bad_format"
    except ValueError:
        return "bad_format"


def _json(value: Any) -> str:
    if not isinstance(value, Pairs):
        return "wrong_type"
    return "bad_format" if _shares_path(value) else ""


def _shares_path(value: Any) -> bool:
    """Dots in keys are nesting to ClickHouse; each object in an array has paths of its own."""
    seen: set[str] = set()
    twice = False

    def walk(pairs: Pairs, prefix: str) -> None:
        nonlocal twice
        # A key may stand for an object and, again, for something else.
        own: set[tuple[str, bool]] = set()
        for key, item in pairs:
            path = prefix + key
            name = (key, isinstance(item, Pairs))
            twice = twice or name in own
            own.add(name)
            if isinstance(item, Pairs):
                walk(item, path + ".")
                continue
            if item is None:
                continue
            twice = twice or path in seen
            seen.add(path)
            if isinstance(item, list):
                twice = twice or any(_shares_path(inner) for inner in _objects(item))

    walk(value, "")
    return twice


def _objects(items: list[Any]) -> list[Pairs]:
    found = []
    for item in items:
        if isinstance(item, Pairs):
            found.append(item)
        elif isinstance(item, list):
            found += _objects(item)
    return found


def _decimal(value: Any, precision: int, scale: int) -> str:
    if isinstance(value, Real):
        number = Decimal(repr(value.value))
        if abs(value.value) >= 10.0 ** (15 - scale) and value.value:
            return "out_of_range"
    elif type(value) is int:
        number = Decimal(value)
    elif isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return "bad_format"
        number = Decimal(value)
    else:
        return "wrong_type"
    digits = -int(number.normalize().as_tuple().exponent)
    return "" if abs(number) < Decimal(10) ** (precision - scale) and digits <= scale else "out_of_range"


def _array(value: Any, item: str) -> str:
    if not isinstance(value, list) or isinstance(value, Pairs):
        return "wrong_type"
    judges: dict[str, Callable[[Any], str]] = {
        "string": _string,
        "float64": _float,
        "int64": lambda inner: _integer(inner, -(2**63), 2**63 - 1),
    }
    codes = {judges[item](inner) for inner in value} - {""}
    return "wrong_type" if "wrong_type" in codes else next(iter(codes), "")


def _constraint(field: Field, value: Any) -> str:
    number = value.value if isinstance(value, Real) else value
    if field.kind.precision:
        number = Decimal(number if isinstance(number, (str, int)) else repr(number))
    if field.min is not None and number < field.min:
        return "out_of_range"
    if field.max is not None and number > field.max:
        return "out_of_range"
    if field.max_length is not None and len(value) > field.max_length:
        return "too_long"
    if field.values is not None and value not in field.values:
        return "not_allowed"
    if field.pattern is not None and not re.fullmatch(field.pattern, value):
        return "pattern"
    return ""


_PLAIN: dict[str, Callable[[Any], str]] = {
    "string": _string,
    "float64": _float,
    "bool": _bool,
    "timestamp": _timestamp,
    "date": _date,
    "uuid": _uuid,
    "json": _json,
}
