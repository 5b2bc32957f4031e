"""A spec compiled to msgspec: the fast way to see that events are valid, never the way to say why one is not.

An event passes when every key in it is a known one, standing once, with a value that its rule accepts. Anything else
is left to the exact rules. That each key stands once is shown by counting quotes in the bytes: a key has two, a string
two, and where there are no more than the keys and strings that were found, no key is hidden behind another. (Escaped
quotes are more, and raise a doubt.) Where unknown fields are kept their keys are counted instead, by `":`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from ingest.gateway.parsing import MAX_DEPTH, measure
from ingest.gateway.rules import DATE, INT64, MAX_JSON_BYTES, UUID, has_shared_path
from tidewatch.record import EVENT_ID
from tidewatch.spec import Field, Spec

Events = Sequence[Any]
Column = list[Any]
Check = Callable[[Column], bool]

_GAP_BEFORE_COLON = tuple((bytes([space]), bytes([space]) + b":") for space in b" \t\n\r")
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_FRACTIONS = ("", *(f".{'0' * digits}" for digits in range(1, 10)))
# Offsets other than zero are rarer, and each would double the set; the exact rules take them.
_SHAPES = frozenset(
    f"0000-00-00{separator}00:00:00{fraction}{offset}".encode()
    for separator in "Tt "
    for fraction in _FRACTIONS
    for offset in ("Z", "z", "+00:00", "-00:00")
)
_own_id = attrgetter("event_id")
_decode_any = msgspec.json.Decoder().decode


class CompiledSpec:
    def __init__(self, spec: Spec) -> None:
        fields = spec.schema_.fields
        self.takes_event_id = spec.schema_.field("event_id") is None
        columns = [_struct_field(field) for field in fields]
        if self.takes_event_id:
            columns.append(("event_id", str | UnsetType, UNSET))
        strict = _struct(spec, columns, refuse_unknown=True)
        self.one: Callable[[bytes], Any] = msgspec.json.Decoder(strict).decode
        self.many: Callable[[bytes], list[Any]] = _many(strict)
        loose = _struct(spec, columns, refuse_unknown=False)
        self._loose: Callable[[bytes], list[Any]] = _many(loose)
        self._known = frozenset(name for name, *_ in columns)
        self._quotes = sum(4 if _is_text(field) else 2 for field in fields if field.required)
        self._optional = [(attrgetter(field.name), _is_text(field)) for field in fields if not field.required]
        self._texts = [attrgetter(field.name) for field in fields if field.kind.item == "string"]
        self._nested = [attrgetter(field.name) for field in fields if field.type == "json"]
        self._checks = [(attrgetter(field.name), check) for field in fields if (check := _column_check(field))]

    def own_ids(self, events: Events) -> list[Any] | None:
        """The clients' own event ids, UNSET where there is none; None when no event has one."""
        if not self.takes_event_id:
            return None
        ids = list(map(_own_id, events))
        return None if ids.count(UNSET) == len(ids) else ids

    def agree(self, raw: bytes, events: Events) -> bool:
        """Whether `events`, which `one` or `many` made of `raw`, are valid beyond doubt."""
        ids = self.own_ids(events)
        return raw.count(b'"') == self._quotes_of(events, ids) and self._fit(events, ids)

    def _quotes_of(self, events: Events, ids: list[Any] | None) -> int:
        """The quotes that all keys and strings of `events` take; -1 when a nested object needs a closer look."""
        total = len(events)
        quotes = self._quotes * total
        for name, is_text in self._optional:
            column = list(map(name, events))
            there = total - column.count(UNSET)
            quotes += 2 * there
            if is_text:
                quotes += 2 * (there - column.count(None))
        if ids is not None:
            quotes += 4 * (total - ids.count(UNSET))
        for name in self._texts:
            quotes += 2 * sum(len(value) for value in map(name, events) if value.__class__ is list)
        for name in self._nested:
            for value in map(name, events):
                inner = _nested_quotes(value)
                if inner is None:
                    return -1
                quotes += inner
        return quotes

    def keeping_unknown(self, raw: bytes) -> list[Any] | None:
        """The events of the array `raw`, unknown fields left out, when they are valid beyond doubt."""
        try:
            events, whole = self._loose(raw), _decode_any(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        keys, depth = measure(whole)
        if depth > MAX_DEPTH or not _holds_only(raw, keys):
            return None
        if any(name[:1] == "_" for event in whole for name in event.keys() - self._known):
            return None
        for name in self._nested:
            if any(_nested_quotes(value) is None for value in map(name, events)):
                return None
        return events if self._fit(events, self.own_ids(events)) else None

    def _fit(self, events: Events, ids: list[Any] | None) -> bool:
        for name, check in self._checks:
            if not check(list(map(name, events))):
                return False
        return ids is None or all(map(EVENT_ID.fullmatch, _strings(ids)))


def _struct(spec: Spec, columns: list[Any], *, refuse_unknown: bool) -> Any:
    return msgspec.defstruct(
        f"Event_{spec.name}", columns, gc=False, forbid_unknown_fields=refuse_unknown, kw_only=True
    )


def _many(struct: Any) -> Callable[[bytes], list[Any]]:
    return msgspec.json.Decoder(list[struct]).decode


def _struct_field(field: Field) -> tuple[str, Any] | tuple[str, Any, Any]:
    accepted = _type_of(field)
    if field.required:
        return field.name, accepted
    if accepted is Raw:
        return field.name, Raw | UnsetType, UNSET
    return field.name, accepted | None | UnsetType, UNSET


def _type_of(field: Field) -> Any:
    kind = field.kind
    if kind.is_integer:
        low = max(kind.low or 0, math.ceil(field.min) if field.min is not None else kind.low or 0)
        high = min(kind.high or 0, math.floor(field.max) if field.max is not None else kind.high or 0)
        # msgspec knows bounds within 64 signed bits only; `_column_check` looks at what lies above.
        return Annotated[int, Meta(ge=low, le=high if high <= INT64[1] else None)]
    if kind.item:
        item = {"string": str, "int64": Annotated[int, Meta(ge=INT64[0], le=INT64[1])], "float64": float}[kind.item]
        return Annotated[list[item], Meta(max_length=field.max_length)]  # type: ignore[valid-type]
    match kind.name:
        case "string":
            return _string_type(field)
        case "float64":
            return Annotated[float, Meta(ge=field.min, le=field.max)]
        case "bool":
            return bool
        case "timestamp" | "date" | "uuid":
            return str
        case _:
            return Raw


def _string_type(field: Field) -> Any:
    if field.values is not None:
        if field.max_length is None and field.pattern is None:
            return Literal[field.values]
        return str
    return Annotated[str, Meta(max_length=field.max_length)]


def _column_check(field: Field) -> Check | None:
    """What msgspec cannot say, asked of a whole column at once. A value that fails it may still be valid."""
    kind = field.kind
    if kind.precision or (field.values is not None and (field.max_length or field.pattern)):
        return _never
    if field.pattern is not None:
        whole = re.compile(field.pattern, re.ASCII).fullmatch
        return lambda column: all(map(whole, _strings(column)))
    match kind.name:
        case "timestamp":
            return _timestamps
        case "date":
            return lambda column: (
                all(map(DATE.fullmatch, _strings(column))) and _convert_to(_strings(column), list[date])
            )
        case "uuid":
            return lambda column: all(map(UUID.fullmatch, _strings(column)))
        case "uint64":
            return lambda column: all(value < 2**64 for value in column if value.__class__ is int)
        case "float64" if field.min is None or field.max is None:
            return lambda column: all(abs(value) < 2**63 for value in column if value.__class__ is float)
    if kind.item == "float64":
        return lambda column: all(abs(v) < 2**63 for value in column if value.__class__ is list for v in value)
    return None


def _never(column: Column) -> bool:
    """For what is read exactly, always, once it is there."""
    return all(value is UNSET or value is None for value in column)


def _strings(column: Column) -> list[str]:
    return [value for value in column if value.__class__ is str]


def _timestamps(column: Column) -> bool:
    values = _strings(column)
    if len(values) == 1:
        shapes = {values[0].encode().translate(_DIGITS_TO_ZERO)}
    elif values:
        shapes = set("\n".join(values).encode().translate(_DIGITS_TO_ZERO).split(b"\n"))
    else:
        return True
    return (
        shapes <= _SHAPES
        and min(values) >= "1900-01-01"
        and max(values) < "2299-12-31"
        and _convert_to(values, list[datetime])
    )


def _convert_to(values: list[str], column: Any) -> bool:
    try:
        msgspec.convert(values, column)
    except msgspec.ValidationError:
        return False
    return True


def _is_text(field: Field) -> bool:
    return field.kind.json == "string"


def _holds_only(raw: bytes, keys: int) -> bool:
    """Whether `raw`, in which so many distinct keys were found, holds no other."""
    return raw.count(b'":') == keys and not any(space in raw and gap in raw for space, gap in _GAP_BEFORE_COLON)


def _nested_quotes(raw: Raw | UnsetType) -> int | None:
    """How many quotes stand in the object `raw`, None when it needs a closer look."""
    if raw is UNSET:
        return 0
    data = bytes(raw)
    if data == b"null":
        return 0
    if len(data) > MAX_JSON_BYTES:
        return None
    try:
        value = _decode_any(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if value.__class__ is not dict:
        return None
    keys, depth = measure(value)
    if depth >= MAX_DEPTH or not _holds_only(data, keys) or (b"." in data and has_shared_path(value)):
        return None
    return data.count(b'"')
